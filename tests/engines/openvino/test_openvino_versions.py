"""An OpenVINO that cannot read any artefact is refused by its version, before a graph is."""

from __future__ import annotations

import re
from pathlib import Path

import openvino
import pytest

from bagel_engines import EngineFailure, open_engine
from bagel_engines.openvino.engine import FIRST, check_version


def test_an_older_version_is_told_which_one_is_needed(monkeypatch):
    monkeypatch.setattr(openvino, "__version__", "2026.2.1-21919-releases")
    with pytest.raises(EngineFailure, match=r"openvino 2026\.2\.1 does not know .* 2026\.3 or newer: pip install --up"):
        open_engine("openvino")


@pytest.mark.parametrize("version", ["2026.3.0", "2026.4.1", "2026.10", "2027.0.0"])
def test_every_newer_version_is_taken(version):
    check_version(version)


def test_the_oldest_version_is_the_one_that_is_asked_for_when_installing():
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'"openvino>=(\d+)\.(\d+)"', text).groups() == tuple(map(str, FIRST))  # type: ignore[union-attr]

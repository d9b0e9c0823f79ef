"""The lists of what is changed in the code on purpose, and what was found by it, fit the code and the documents."""

from __future__ import annotations

import tomllib

import pytest
from documents import ROOT

from bench.mutation import PACKAGES, told

GROUPS = tomllib.loads((ROOT / "bench" / "mutation.toml").read_text(encoding="utf-8"))
FAULTS = tomllib.loads((ROOT / "bench" / "planted.toml").read_text(encoding="utf-8"))["fault"]
MODULES = [module for group in GROUPS.values() for module in group["mutate"]]


def test_every_changed_module_and_every_test_is_there():
    assert len(MODULES) == len(set(MODULES)) > 12
    for module in MODULES:
        assert (PACKAGES[module.split("/")[0]] / module).is_file(), module
    for group in GROUPS.values():
        assert [test for test in group["tests"] if not (ROOT / test).is_file()] == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault["what"])
def test_every_planted_fault_fits_the_code(fault):
    assert (ROOT / fault["file"]).read_text(encoding="utf-8").count(fault["was"]) == 1
    assert fault["was"] != fault["becomes"]
    assert (ROOT / fault["tests"]).is_file()


def test_a_changed_message_is_told_from_a_changed_deed():
    assert told('-    raise ValueError("too few")\n+    raise ValueError("XXtoo fewXX")')
    assert told('-    raise ValueError("too few")\n+    raise ValueError("TOO FEW")')
    assert not told("-    return a + b\n+    return a - b")
    assert not told('-    raise ValueError("too few")\n+    raise ValueError(None)')

"""The choice of bagel-nano's guidance: every way asks the same cases, and is compared with BAGEL's own scales."""

from __future__ import annotations

import json
import sys

import pytest

from bagel_rt.artefact.folders import BUNDLED
from bench.nano import guidance


def test_a_way_is_told_by_its_options():
    assert guidance.told({}) == "BAGEL's own"
    assert guidance.told({"cfg_interval": [0.4, 0.9], "timestep_shift": 8.0}) == (
        "cfg_interval 0.4 to 0.9, timestep_shift 8"
    )


def test_pictures_are_sampled_as_edits_are_each_by_its_own_cases():
    assert set(guidance.WAYS) == set(guidance.CATEGORIES)
    assert all(ways[0] == {} and {} not in ways[1:] for ways in guidance.WAYS.values())


@pytest.mark.slow
def test_each_way_draws_the_same_cases_and_is_paired_with_bagels_own(monkeypatch, capsys, tmp_path):
    ways = ({}, {"cfg_text_scale": 4.0}, {"cfg_text_scale": 1.0, "cfg_img_scale": 1.0})
    monkeypatch.setattr(guidance, "WAYS", {"edits": ways})
    monkeypatch.setattr(guidance, "OFFICIAL", {"preset": "notebook", "num_timesteps": 12})
    out = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["guidance", "--model", str(BUNDLED), "--limit", "3", "--out", str(out)])
    guidance.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == json.loads(out.read_text())
    own, named, unguided = found["rows"]
    assert [row["guidance"] for row in (own, named, unguided)] == [
        "BAGEL's own",
        "cfg_text_scale 4",
        "cfg_text_scale 1, cfg_img_scale 1",
    ]
    assert own["n"] == named["n"] == unguided["n"] == 3
    assert named["paired"]["changed"] == 0  # the official scale by name is BAGEL's own, whatever the artefact brings

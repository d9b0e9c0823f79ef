"""Short trainings side by side: each is taught once, exported and scored by cases like those of training."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny_nano import CONFIG, written

from bench.nano import train, trials
from bench.nano.snapshot import write_snapshot

pytestmark = pytest.mark.bench
TRIAL = {"steps": 4, "decay_steps": 2, "warmup": 1, "first_fill": 4, "seed": 4}


@pytest.mark.slow
def test_each_trial_begins_with_the_same_checkpoint_and_is_scored_apart(monkeypatch, capsys, tmp_path):
    train.run(CONFIG, tmp_path / "first", steps=2)
    write_snapshot(tmp_path / "first", tmp_path / "checkpoint", CONFIG)
    config = {**CONFIG, "trial": TRIAL, "trial_hints": {**TRIAL, "hint_weight": 0.5}, "lesson": TRIAL}
    file, out, state = written(config, tmp_path / "config.toml"), tmp_path / "found.json", tmp_path / "state"
    monkeypatch.setattr(trials, "ASKED", ("captions",))
    given = ["--state", state, "--config", file, "--from", tmp_path / "checkpoint", "--limit", 2, "--out", out]
    monkeypatch.setattr(sys, "argv", ["trials", *map(str, given)])
    trials.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == json.loads(out.read_text(encoding="utf-8"))
    assert list(found["rows"]) == ["trial", "trial_hints"]
    plain, hinted = found["rows"].values()
    assert plain["scores"]["captions"]["n"] == hinted["scores"]["captions"]["n"] == 2
    assert plain["training"]["steps"] == 4
    assert (plain["training"]["hint_weight"], hinted["training"]["hint_weight"]) == (0.05, 0.5)
    assert plain["mse"] == hinted["mse"]  # of the first step, the only one in the log: they began alike
    one, other = (load_file(state / name / "checkpoint" / "ema.safetensors") for name in found["rows"])
    assert any(not torch.equal(one[name], other[name]) for name in one)  # and were taught otherwise
    trained = [(state / name / "model.pt").stat().st_mtime_ns for name in found["rows"]]
    trials.main()
    assert trained == [(state / name / "model.pt").stat().st_mtime_ns for name in found["rows"]]

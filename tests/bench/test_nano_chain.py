"""bagel-nano made from nothing in one command, and in calls on a machine that is lent, at a size that takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_nano import CONFIG, written

from bench.nano import card, card_pack, make, start
from bench.nano.state import State
from bench.nano.train import CONFIG as SHIPPED
from bench.nano.train import settings

pytestmark = pytest.mark.bench
CPU = ["--device", "cpu"]


@pytest.fixture
def config(tmp_path):
    return written(CONFIG, tmp_path / "config.toml")


def told(monkeypatch, module, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
    monkeypatch.setattr("bench.nano.state.signal.signal", lambda *_: None)  # Ctrl-C stays pytest's
    module.main()


def test_one_command_makes_checkpoint_artefacts_and_scores_and_goes_on_where_it_was(
    tmp_path, config, monkeypatch, capsys
):
    scored, exported = [], []
    monkeypatch.setattr(make, "scored", lambda *given: scored.append(given))
    monkeypatch.setattr(make, "exported", lambda *given: exported.append(given))  # test_nano_training exports one
    state = tmp_path / "state"
    command = ("--state", state, "--config", config, *CPU)
    told(monkeypatch, make, *command, "--steps", 2, "--limit", 0)
    assert "VAE about" in capsys.readouterr().out
    assert torch.load(state / "model.pt", weights_only=False)["step"] == 2
    assert not (state / "checkpoint").exists()
    told(monkeypatch, make, *command, "--no-estimate")
    assert torch.load(state / "model.pt", weights_only=False)["step"] == CONFIG["training"]["steps"]
    assert (state / "checkpoint" / "ema.safetensors").exists()
    assert [(given[1].name, given[2]) for given in exported] == [("bagel-nano", "int8"), ("fp32", "fp32")]
    assert [given[0] for given in scored] == ["score", "score", "score_left"]
    assert (state / "losses.png").exists()


def test_calls_on_a_lent_machine_go_on_from_each_other_and_from_what_was_brought_home(tmp_path, config):
    pack = tmp_path / "pack"
    assert card_pack.pack(pack, None) < 8 << 20
    call(pack, tmp_path / "machine", tmp_path / "out", "--config", config, "--steps", 2)
    first = torch.load(tmp_path / "machine" / "state" / "model.pt", weights_only=False)
    assert first["step"] == 2
    home = tmp_path / "home"
    card.join(tmp_path / "out", home)
    assert (home / "model.jsonl").exists()
    again = tmp_path / "again"
    card_pack.pack(again, home)
    call(again, tmp_path / "other", tmp_path / "out", "--config", config, "--minutes", 0.0001)
    other = torch.load(tmp_path / "other" / "state" / "model.pt", weights_only=False)
    assert other["step"] == 1  # that checkpoint was done: it is a beginning, not a middle
    card.join(tmp_path / "out", home)
    assert json.loads((home / "training.json").read_text()) == {"step": 1}
    weight = "language_model.model.layers.0.mlp.up_proj.weight"
    brought = load_file(home / "ema.safetensors")[weight]
    torch.testing.assert_close(brought, other["average"]["model." + weight].bfloat16())


def call(pack: Path, machine: Path, out: Path, *arguments: object) -> None:
    places = {"STATE": str(machine), "OUT": str(out), "PYTHON": sys.executable, "PYTHONPATH": ""}
    subprocess.run([pack / "run.sh", *map(str, arguments), *CPU], env={**os.environ, **places}, check=True)


def test_what_is_brought_home_is_cut_into_pieces_and_whole_again(tmp_path, monkeypatch):
    monkeypatch.setattr(card, "PIECE", 1000)
    (tmp_path / "model.bin").write_bytes(os.urandom(2500))
    with tarfile.open(tmp_path / "made.tar", "w") as made:
        made.add(tmp_path / "model.bin", arcname="model.bin")
    data = (tmp_path / "made.tar").read_bytes()
    pieces = card.cut(data, tmp_path / "out")
    assert all(piece.stat().st_size <= 1000 for piece in pieces)
    assert [p.name for p in card.cut(data[:1500], tmp_path / "out")] == ["nano.tar.00", "nano.tar.01"]
    assert len(list((tmp_path / "out").iterdir())) == 2  # none of an earlier, longer one
    card.cut(data, tmp_path / "out")
    card.join(tmp_path / "out", tmp_path / "whole")
    assert (tmp_path / "whole" / "model.bin").read_bytes() == (tmp_path / "model.bin").read_bytes()


def test_pieces_that_are_not_there_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"has no nano\.tar\.00: name the folder that a call"):
        card.join(tmp_path, tmp_path / "whole")


def test_nothing_is_brought_home_before_the_model_has_begun(tmp_path):
    State(tmp_path / "state", "vae").save(step=1)
    assert card.bring(tmp_path / "state", tmp_path / "out", CONFIG, done=False) == []


def test_a_pack_that_is_too_large_is_refused_and_nothing_of_it_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(card_pack, "MOST", 1000)
    monkeypatch.setattr(card_pack, "PACKED", ("bench/nano/words.py",))
    with pytest.raises(SystemExit, match=r"allowed are"):
        card_pack.pack(tmp_path / "pack", None)
    assert not (tmp_path / "pack").exists()


def test_on_a_card_a_step_is_larger_and_a_lesson_says_what_is_its_own():
    config = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    cpu, cuda = (settings(config, torch.device(name)) for name in ("cpu", "cuda"))
    assert {n: k * config["cuda"]["times"] for n, k in cpu["mix"].items()} == cuda["mix"]
    assert (cpu["workers"], cuda["workers"]) == (1, config["cuda"]["workers"])
    lesson = settings(config, torch.device("cpu"), "counting")
    assert (lesson["steps"], lesson["draws"]) == (800, 4)
    assert start.shares(config, lesson["shares"]).pictures == 0 < start.shares(config).pictures


def test_a_lesson_says_only_what_differs_from_the_one_it_is_like():
    config = {
        "training": {"steps": 9, "seed": 1, "fresh": 2, "mix": {}},
        "first": {"steps": 5, "seed": 2},
        "second": {"like": "first", "seed": 3},
    }
    lesson = settings(config, torch.device("cpu"), "second")
    assert (lesson["steps"], lesson["seed"], lesson["fresh"]) == (5, 3, 2)

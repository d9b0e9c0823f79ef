"""What does a change do to bagel-nano's training?  python -m bench.nano.trials --state DIR --from DIR --out RESULT.json

Every table of config.toml whose name begins with `trial` is taught as a lesson for a few minutes, from the same
checkpoint and on the same samples where their shares are alike. Each is exported and scored by cases like those of
training, so that what is chosen here can be scored on what was held out. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import torch

from bench.nano import plot, start, train
from bench.nano.make import exported, scored
from bench.nano.snapshot import write_snapshot
from bench.nano.train import CONFIG
from bench.timing import finish, machine

ASKED = ("two objects", "counting", "position", "captions")
LAST = 5  # losses in the log of which the mean is told


def lessons(config: dict[str, Any]) -> list[str]:
    return [name for name in config if name.startswith("trial")]


def how(config: dict[str, Any], lesson: str) -> dict[str, Any]:
    """What may differ between two lessons, as far as it shapes what is learnt."""
    told = train.settings(config, torch.device("cpu"), lesson)
    shares = dataclasses.asdict(start.shares(config, told.get("shares")))
    kept = {name: told[name] for name in ("steps", "muon_rate", "mix", "draws", "fresh", "hint_weight")}
    return {**kept, "shares": shares, "timestep_shift": config["model"]["timestep_shift"]}


def taught(config: dict[str, Any], lesson: str, state: Path, checkpoint: Path) -> None:
    """State, checkpoint and artefact of a lesson; what the folder has already is kept."""
    train.run(config, state, checkpoint=checkpoint, lesson=lesson, new_tokens=True)
    if not (state / "int8").exists():
        write_snapshot(state, state / "checkpoint", config)
        exported(state / "checkpoint", state / "int8", "int8")


def scores(state: Path, limit: int) -> dict[str, Any]:
    out = state / "score.json"
    scored("score", state / "int8", out, limit, "--trained", "--only", *ASKED)
    return json.loads(out.read_text(encoding="utf-8"))["scores"]


def losses(state: Path) -> dict[str, float]:
    """The last ones, of text and of pictures, and how long training took."""
    log = state / "model.jsonl"
    (_, ce), (_, mse), (_, minutes) = (plot.series(log, "step", name) for name in ("ce", "mse", "minutes"))
    return {"ce": round(ce[-LAST:].mean(), 4), "mse": round(mse[-LAST:].mean(), 4), "minutes": round(minutes[-1], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="folder for all lessons; started again, it goes on")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--from", dest="checkpoint", type=Path, required=True, metavar="DIR")
    parser.add_argument("--limit", type=int, default=100, help="cases of each category")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    config, rows = tomllib.loads(args.config.read_text(encoding="utf-8")), {}
    for lesson in lessons(config):
        state = args.state / lesson
        taught(config, lesson, state, args.checkpoint)
        rows[lesson] = {"training": how(config, lesson), **losses(state), "scores": scores(state, args.limit)}
    finish({"bench": "nano/trials", **machine(), "rows": rows}, args.out)


if __name__ == "__main__":
    main()

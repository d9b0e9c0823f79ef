"""Makes bagel-nano from nothing: python -m bench.nano.make --state DIR (make nano). Started again, it goes on.

Tokenizer, VAE, model, checkpoint, export as it ships, in float32 and in w8a8, scores: each is skipped where the folder
has it. On a CUDA card where there is one, else on the CPU. It says first about how long all will take, then every half
minute how far it is. In DIR: checkpoint/, bagel-nano/ (int8), fp32/, w8a8/, score-*.json, left.json, losses.png.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bagel_engines.host_cpus import own_cpus
from bench.nano import plot, train
from bench.nano.arithmetic import found_device
from bench.nano.snapshot import write_snapshot
from bench.nano.state import Stopped, duration
from bench.nano.step_time import measure

SETTINGS = Path(__file__).with_name("settings.toml")
ARTEFACTS = {"bagel-nano": "int8", "fp32": "fp32", "w8a8": "w8a8"}
Say = Callable[[str], None]


def plan(config: dict[str, Any], device: torch.device, state: Path, steps: int) -> str:
    """What is left to be trained and about how long that takes, from a few steps of each."""
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(config, device, 2, Path(scratch))
    vae = 0 if (state / "vae-final.pt").exists() else config["vae"]["steps"] + config["vae"]["polish_steps"] / 2
    left = steps - train.steps_done(state)
    seconds = vae * found["vae_step_ms"] / 1000, left * found["model_step_ms"] / 1000
    each = f"{found['vae_step_ms']:.0f} ms and {found['model_step_ms']:.0f} ms a step"
    return (
        f"on {device}: VAE about {duration(seconds[0])}, model about {duration(seconds[1])} ({each}); then the scores"
    )


def exported(checkpoint: Path, out: Path, precision: str) -> None:
    from bagel_export.artefact.export import export

    for _ in export(checkpoint, out, precision=precision, settings=SETTINGS):
        pass


def scored(module: str, model: Path, out: Path, limit: int, *more: str) -> None:
    """By the module's own command, so that its process gives back what it took; more: further arguments of it."""
    if not out.exists():
        command = [sys.executable, "-m", f"bench.nano.{module}", "--model", model, "--limit", str(limit), "--out", out]
        command += ["--workers", str(own_cpus()), *more]
        subprocess.run(command, check=True)


def finish(config: dict[str, Any], state: Path, limit: int, say: Say) -> None:
    """From a trained state to the scores."""
    checkpoint = state / "checkpoint"
    if not checkpoint.exists():
        write_snapshot(state, checkpoint, config)
        plot.draw(state, state / "losses.png")
    for name, precision in ARTEFACTS.items():
        if not (state / name).exists():
            say(f"exporting {name}, {precision}")
            exported(checkpoint, state / name, precision)
        say(f"scoring {name}, {limit} cases of each kind")
        scored("score", state / name, state / f"score-{precision}.json", limit)
    scored("score_left", state / "bagel-nano", state / "left.json", limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    train.add_arguments(parser)
    parser.add_argument("--limit", type=int, default=200, help="cases of each kind that are scored; 0: none")
    parser.add_argument("--no-estimate", action="store_true", help="begin at once")
    args = parser.parse_args()
    config = tomllib.loads(args.config.read_text(encoding="utf-8"))
    device = args.device or found_device()
    steps = args.steps or train.settings(config, device, args.lesson)["steps"]
    if not args.no_estimate and train.steps_done(args.state) < steps:
        print(plan(config, device, args.state, steps), flush=True)
    try:
        train.run_as_told(args)
    except Stopped as stopped:
        raise SystemExit(str(stopped)) from None
    if args.limit:
        finish(config, args.state, args.limit, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()

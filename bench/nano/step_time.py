"""Where does a training step's time go? python -m bench.nano.step_time --out RESULT.json

A few steps of bagel-nano's training as config.toml has it, from random weights, part by part, beside one of the VAE's.
What the samples take is what a worker process would take ahead of the step. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import torch

from bagel_export.reference.vae import AutoEncoder
from bench.nano import start, train_vae
from bench.nano.arithmetic import found_device, type_on
from bench.nano.pack import pixels
from bench.nano.state import State
from bench.nano.supply import Pictures
from bench.nano.train import CONFIG, Batches, Run, begun, settings
from bench.timing import finish, machine


class Parts:
    """Seconds of each part, step by step; a card is waited for at the end of each."""

    def __init__(self, device: torch.device):
        self.device, self.taken = device, {}
        self._since = time.perf_counter()

    def done(self, name: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.taken.setdefault(name, []).append(now - self._since)
        self._since = now

    def medians(self, warm: int = 1) -> dict[str, float]:
        """Milliseconds, without the first `warm` steps."""
        return {name: round(1000 * statistics.median(t[warm:]), 1) for name, t in self.taken.items()}


def step_by_parts(run: Run, batches: Batches, parts: Parts) -> None:
    made = batches.supply(run.step)
    parts.done("samples")
    batches.pools.add(made)
    parts.done("latents")
    batch = batches.packed(run.step)
    parts.done("packing")
    run.gradients(batch)
    parts.done("forward and backward")
    run.update(1.0)
    parts.done("optimizers and average")


def vae_seconds(config: dict[str, Any], device: torch.device, steps: int) -> float:
    """A step of the VAE's training, its pictures included."""
    vae, pictures = AutoEncoder(config["base_width"]).to(device), Pictures(config["batch"], config["pictures"], 0)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-4)
    parts = Parts(device)
    for step in range(steps + 1):
        train_vae.learn(vae, pixels(pictures(step), device), optimizer, config)
        parts.done("step")
    return parts.medians()["step"] / 1000


def measure(config: dict[str, Any], device: torch.device, steps: int, folder: Path) -> dict[str, Any]:
    """Milliseconds by part of the model's step, its sum without the samples, and the VAE's step."""
    how = {**settings(config, device), "first_fill": settings(config, device)["fresh"], "workers": 0}
    start.prepare(config, folder, None, new_tokens=False, vae="keep")
    State(folder, "vae-final").save(vae=AutoEncoder(config["vae"]["base_width"]).state_dict(), polished=0)
    with begun(config, how, folder, None, device) as (run, batches):
        parts = Parts(device)
        for _ in range(steps + 1):
            step_by_parts(run, batches, parts)
    medians = parts.medians()
    return {
        "model_ms": medians,
        "model_step_ms": round(sum(ms for name, ms in medians.items() if name != "samples"), 1),
        "samples_in_a_step": sum(how["mix"].values()),
        "vae_step_ms": round(1000 * vae_seconds(config["vae"], device, steps), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--device", type=torch.device, default=found_device())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(tomllib.loads(args.config.read_text(encoding="utf-8")), args.device, args.steps, Path(scratch))
    about = {"bench": "nano/step_time", "torch": torch.__version__, "device": str(args.device)}
    about |= {"type": str(type_on(args.device)), "threads": torch.get_num_threads(), **machine()}
    finish({**about, "steps": args.steps, **found}, args.out)


if __name__ == "__main__":
    main()

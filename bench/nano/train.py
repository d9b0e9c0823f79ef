"""Trains bagel-nano: python -m bench.nano.train --state DIR. Started again, it goes on where it was.

One command does it all: the tokenizer, the VAE, then the model; with --from, a checkpoint's are what it begins with.
bench.nano.snapshot makes a checkpoint of it, bench.nano.make does everything up to the scores.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from bagel_export.reference.vae import SCALE, SHIFT, AutoEncoder
from bagel_export.training.unified import BagelForUnifiedMultimodal
from bench.nano import start, train_vae
from bench.nano.arithmetic import autocast, found_device, type_on
from bench.nano.hints import Heads, Taps
from bench.nano.optimizers import factor, optimizers
from bench.nano.pack import Packer, pixels, told
from bench.nano.pools import Bank, Made, Pools, fresh_counts
from bench.nano.state import Average, Progress, State, Stopped, stop_when_told
from bench.nano.supply import Recipe, Supply

CONFIG = Path(__file__).with_name("config.toml")


class Mixed:
    """Arithmetic in the device's type on a copy of a float32 model: gradients come back, new weights go over."""

    def __init__(self, model: BagelForUnifiedMultimodal, device: torch.device, fuse: bool):
        self.type = type_on(device)
        self.half = copy.deepcopy(model).to(self.type)
        self._weights, self._halves = list(model.parameters()), list(self.half.parameters())
        if fuse and device.type == "cuda":
            torch._dynamo.config.suppress_errors = True  # a machine without a compiler trains all the same
        self._taps = Taps(self.half)
        for layer in self.half.model.language_model.model.layers if fuse else ():
            layer._qkv = torch.compile(layer._qkv, dynamic=True)  # type: ignore[union-attr]
            layer._finish = torch.compile(layer._finish, dynamic=True)  # type: ignore[union-attr]

    def losses(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cross-entropy and mean squared error of a packed batch, and what its hints are missed by."""
        facts = batch.pop("told")
        for name in ("packed_vit_tokens", "padded_latent"):
            batch[name] = batch[name].to(self.type)
        out = self.half(**batch)
        missed = self._taps.loss(cast(Heads, self.half.hints), facts)
        return out["ce"].float().mean(), out["mse"].float().mean(), missed

    @torch.no_grad()
    def gradients_back(self) -> None:
        for p, h in zip(self._weights, self._halves, strict=True):
            p.grad = None if h.grad is None else torch.empty_like(p) if p.grad is None else p.grad
        given = [(p.grad, h.grad) for p, h in zip(self._weights, self._halves, strict=True) if h.grad is not None]
        torch._foreach_copy_(*map(list, zip(*given, strict=True)))
        for h in self._halves:
            h.grad = None

    @torch.no_grad()
    def weights_over(self) -> None:
        torch._foreach_copy_(self._halves, self._weights)


class Encoder:
    """Pictures (n, side, side, 3) uint8 to the means and deviations of their latents (n, 2, 16, h, w)."""

    def __init__(self, vae: AutoEncoder, device: torch.device):
        self.vae, self.device = vae, device

    @torch.no_grad()
    def __call__(self, pictures: np.ndarray) -> Tensor:
        with autocast(self.device):
            mean, logvar = self.vae.encoder(pixels(pictures, self.device)).float().chunk(2, dim=1)
        return torch.stack([SCALE * (mean - SHIFT), SCALE * torch.exp(0.5 * logvar)], dim=1)


def lesson_table(config: dict[str, Any], lesson: str | None) -> dict[str, Any]:
    """What a lesson's table says, over that of the lesson it is `like`."""
    if lesson is None:
        return {}
    return {**lesson_table(config, config[lesson].get("like")), **config[lesson]}


def settings(config: dict[str, Any], device: torch.device, lesson: str | None = None) -> dict[str, Any]:
    """The table [training], what a lesson says instead, and on a card what [cuda] says; `times` is in the mix."""
    how = {**config["training"], **lesson_table(config, lesson)}
    how |= config.get("cuda", {}) if device.type == "cuda" else {}
    return {**how, "mix": {name: n * how.get("times", 1) for name, n in how["mix"].items()}}


def recipe(config: dict[str, Any], how: dict[str, Any], tokenizer: str) -> Recipe:
    counts = tuple(fresh_counts(how["mix"], how["fresh"]).items())
    sizes, rule, shares = config["model"], start.vit_rule(config), start.shares(config, how.get("shares"))
    side, draws, step = sizes["max_latent_size"], how["draws"], how["round"]
    return Recipe(tokenizer, side, rule, start.PATCH, draws, step, counts, shares, how["seed"])


class Batches:
    """Packed batches, step by step: the samples made for a step go into the pools, and the batch comes out of them.

    The pools are filled with what earlier steps would have brought, so a run that goes on finds what it left, up to
    `first_fill` of those that have latents.
    """

    def __init__(self, supply: Supply[Made], pools: Pools, packer: Packer, how: dict[str, Any], first: int):
        self.supply, self.pools, self.packer, self.seed = supply, pools, packer, how["seed"]
        for step in range(first - -(-how["first_fill"] // how["fresh"]), first):
            pools.add(supply(step))

    def __call__(self, step: int) -> dict[str, Any]:
        self.pools.add(self.supply(step))
        return self.packed(step)

    def packed(self, step: int) -> dict[str, Any]:
        """The step's batch, its samples being in the pools."""
        torch.manual_seed(self.seed * 1_000_003 + step)
        laid = self.pools.batch(random.Random(f"{self.seed} batch {step}"))
        return self.packer.pack(laid, self.pools.bank.values) | {"told": told(laid, self.packer.device)}


class Run:
    """A model in training: its optimizers, its average, and the step it is at."""

    def __init__(
        self, model: BagelForUnifiedMultimodal, how: dict[str, Any], state: State, device: torch.device, first: int
    ):
        self.model, self.how, self.state = model.to(device), how, state
        self.tools, self.average, self.step = optimizers(model, how), Average(model, how["ema"]), first
        self.average.steps = first
        self.peaks = [t.param_groups[0]["lr"] for t in self.tools]
        self.began_at = first
        if (saved := state.load(device)) is not None:
            self._go_on(saved)
        self.mixed = Mixed(model, device, how["fuse"])

    def _go_on(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.average.values, self.average.steps, self.step = saved["average"], saved["step"], saved["step"]
        for tool, values in zip(self.tools, saved["optimizers"], strict=True):
            tool.load_state_dict(values)

    def save(self) -> None:
        optimizers = [t.state_dict() for t in self.tools]
        self.state.save(
            model=self.model.state_dict(), average=self.average.values, optimizers=optimizers, step=self.step
        )

    def rate(self, steps: int) -> float:
        """Of the peak. Where a run begins in the middle of a schedule, it warms up there."""
        warm = min(1.0, (self.step - self.began_at + 1) / self.how["warmup"])
        return min(warm, factor(self.step, steps, self.how["warmup"], self.how["decay_steps"]))

    def learn(self, batch: dict[str, Any], rate: float) -> tuple[Tensor, Tensor, Tensor]:
        """One step; its losses."""
        losses = self.gradients(batch, rate)
        self.update(rate)
        return losses

    def gradients(self, batch: dict[str, Any], rate: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Hints count for less as the rate falls: in the end the model is to draw well, not to tell what it drew."""
        ce, mse, missed = self.mixed.losses(batch)
        (self.how["ce_weight"] * ce + mse + rate * self.how["hint_weight"] * missed).backward()
        self.mixed.gradients_back()
        return ce, mse, missed

    def update(self, rate: float) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for tool, peak in zip(self.tools, self.peaks, strict=True):
            for group in tool.param_groups:
                group["lr"] = peak * rate
            tool.step()
        self.mixed.weights_over()
        self.average.update(self.model)
        self.step += 1


def train(run: Run, batches: Batches, steps: int) -> None:
    """Up to `steps`. The state as it is before the decay is put aside: from there training can be lengthened."""
    began, progress = time.monotonic(), Progress("model", run.step, steps)
    while run.step < steps:
        if run.step == steps - run.how["decay_steps"]:
            run.save()
            run.state.keep("trunk")
        rate = run.rate(steps)
        ce, mse, missed = run.learn(batches(run.step), rate)
        if (run.step - 1) % 10 == 0:
            minutes = (time.monotonic() - began) / 60
            losses = {"ce": ce.item(), "mse": mse.item(), "hints": missed.item()}
            run.state.log(step=run.step - 1, **losses, rate=rate, minutes=minutes)
        progress.say(run.step)
        if run.state.due() or run.step == steps:
            run.save()


def steps_done(folder: Path) -> int:
    saved = State(folder, "model").load()
    return saved["step"] if saved else 0


def load_vae(path: Path, base_width: int) -> AutoEncoder:
    vae = AutoEncoder(base_width)
    vae.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["vae"])
    return vae.to(memory_format=torch.channels_last).eval().requires_grad_(False)


@contextmanager
def begun(
    config: dict[str, Any], how: dict[str, Any], folder: Path, checkpoint: Path | None, device: torch.device
) -> Iterator[tuple[Run, Batches]]:
    """A run with what it is to learn from, for a folder that has its tokenizer and its VAE."""
    model = start.first_model(config, folder, checkpoint)
    run = Run(model, how, State(folder, "model"), device, start.first_step(checkpoint))
    vae = load_vae(folder / "vae-final.pt", config["vae"]["base_width"]).to(device)
    tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
    with Supply(recipe(config, how, tokenizer), how["workers"]) as supply:
        pools = Pools(how["mix"], how["pool"], Bank(Encoder(vae, device)))
        yield run, Batches(supply, pools, Packer(model.config, device), how, run.step)


def run(
    config: dict[str, Any],
    folder: Path,
    steps: int | None = None,
    *,
    checkpoint: Path | None = None,
    lesson: str | None = None,
    new_tokens: bool = False,
    vae: str = "keep",
    device: torch.device | None = None,
) -> None:
    """Everything a folder lacks: tokenizer.json, vae-final.pt, then the model up to `steps` (else the config's)."""
    device = device or found_device()
    how = settings(config, device, lesson)
    if steps_done(folder) >= (steps or how["steps"]):
        return
    start.prepare(config, folder, checkpoint, new_tokens, vae)
    train_vae.run(config["vae"], folder, device, how["workers"])
    with begun(config, how, folder, checkpoint, device) as (learner, batches):
        train(learner, batches, steps or how["steps"])


def _vae(text: str) -> str:
    if text not in start.VAES and not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is neither one of {', '.join(start.VAES)} nor a file")
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--steps", type=int, help="instead of the config's")
    parser.add_argument("--minutes", type=float, help="then it stops, saved; the same command goes on")
    parser.add_argument("--from", dest="checkpoint", type=Path, metavar="DIR", help="a checkpoint to begin with")
    parser.add_argument("--new-tokens", action="store_true", help="train the tokenizer anew; words known stay known")
    parser.add_argument(
        "--vae",
        type=_vae,
        default="keep",
        metavar="|".join((*start.VAES, "FILE")),
        help="what to do first with the checkpoint's, or another in its place",
    )
    parser.add_argument("--lesson", metavar="TABLE", help="a table of the config that says more than [training]")
    parser.add_argument("--device", type=torch.device, help="cuda where there is one, else cpu")


def run_as_told(args: argparse.Namespace) -> None:
    """Raises Stopped where the run was told to stop."""
    stop_when_told(args.minutes)
    given = {name: getattr(args, name) for name in ("checkpoint", "lesson", "new_tokens", "vae", "device")}
    run(tomllib.loads(args.config.read_text(encoding="utf-8")), args.state, args.steps, **given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    try:
        run_as_told(parser.parse_args())
    except Stopped as stopped:
        raise SystemExit(str(stopped)) from None


if __name__ == "__main__":
    main()

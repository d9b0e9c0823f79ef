"""Trains bagel-nano: python -m bench.nano.train --state DIR. Started again, it goes on where it was.

One command does it all: the tokenizer, the VAE, then the model. bench.nano.snapshot makes a checkpoint of it.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
import tomllib
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from bagel_export.config import BagelConfig, LLMConfig, ViTConfig
from bagel_export.reference.vae import SCALE, SHIFT, AutoEncoder
from bagel_export.training.unified import BagelForUnifiedMultimodal
from bagel_rt.artefact.manifest import ResizeRule
from bench.nano import train_vae
from bench.nano.arithmetic import TYPE, autocast
from bench.nano.pack import Packer, Stored
from bench.nano.state import Average, State, stop_when_told
from bench.nano.tasks import TASKS
from bench.nano.tokenizer import train_tokenizer
from bench.nano.world import SIDE

CONFIG = Path(__file__).with_name("config.toml")
PATCH = 14
WITHOUT_LATENTS = ("ask", "left in words")  # tasks whose pictures are only looked at: made anew each time


def model_config(sizes: dict[str, Any]) -> BagelConfig:
    llm = LLMConfig(
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_hidden_layers=sizes["num_hidden_layers"],
        num_attention_heads=sizes["num_attention_heads"],
        num_key_value_heads=sizes["num_key_value_heads"],
        vocab_size=sizes["vocabulary"],
        max_position_embeddings=4096,
        rms_norm_eps=1e-6,
        rope_theta=sizes["rope_theta"],
    )
    side = sizes["vit_side"]
    vit = ViTConfig(
        hidden_size=sizes["vit_hidden_size"],
        intermediate_size=sizes["vit_intermediate_size"],
        num_hidden_layers=sizes["vit_num_hidden_layers"],
        num_attention_heads=sizes["vit_num_attention_heads"],
        patch_size=PATCH,
        image_size=side,
    )
    return BagelConfig(
        llm,
        vit,
        max_latent_size=sizes["max_latent_size"],
        vit_max_num_patch_per_side=vit.grid,
        timestep_shift=sizes["timestep_shift"],
    )


class Pools:
    """Samples with their latents, per task; a few are replaced each step, so that one encoding serves several."""

    def __init__(self, vae: AutoEncoder, config: dict, rng: random.Random):
        self.vae, self.rng, self.room = vae, rng, config["pool"]
        self.mix = config["mix"]
        self.pools: dict[str, list[Stored]] = {name: [] for name in self.mix if name not in WITHOUT_LATENTS}
        self._next = dict.fromkeys(self.pools, 0)

    def grow(self, samples: int) -> None:
        """Add so many samples in the mix's proportions, replacing the oldest where a pool is full."""
        share = sum(self.mix[name] for name in self.pools)
        for name, pool in self.pools.items():
            room = int(self.room * self.mix[name] / share)
            for stored in self._encoded([TASKS[name](self.rng) for _ in range(-(-samples * self.mix[name] // share))]):
                if len(pool) < room:
                    pool.append(stored)
                else:
                    pool[self._next[name] % room] = stored
                    self._next[name] += 1

    def batch(self) -> list[Stored]:
        drawn = [s for name, pool in self.pools.items() for s in self.rng.choices(pool, k=self.mix[name])]
        asked = [name for name in self.mix if name in WITHOUT_LATENTS]
        return drawn + [Stored(TASKS[name](self.rng)) for name in asked for _ in range(self.mix[name])]

    def _encoded(self, samples: list) -> list[Stored]:
        scenes = [p.scene for s in samples for p in s if p.kind in ("keep", "draw")]
        with torch.no_grad(), autocast():
            mean, logvar = self.vae.encoder(train_vae.pixels(scenes, SIDE)).float().chunk(2, dim=1)
        moments = torch.stack([SCALE * (mean - SHIFT), SCALE * torch.exp(0.5 * logvar)], dim=1).half()
        rows = iter(moments.unbind())
        return [Stored(s, tuple(next(rows).clone() for p in s if p.kind in ("keep", "draw"))) for s in samples]


def optimizers(model: BagelForUnifiedMultimodal, config: dict) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for everything else."""
    matrices, rest = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (matrices if p.ndim == 2 and ".layers." in name else rest).append(p)
    return [
        torch.optim.Muon(
            matrices, lr=config["muon_rate"], weight_decay=config["weight_decay"], adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=config["adam_rate"], betas=(0.9, 0.98), weight_decay=0.0),
    ]


def factor(step: int, steps: int, warmup: int, decay: int) -> float:
    """Warm-up, a plateau from which training can be lengthened, a linear decay at the end."""
    return min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / decay))


class Mixed:
    """Arithmetic in TYPE on a copy of a float32 model: gradients come back, new weights go over."""

    def __init__(self, model: BagelForUnifiedMultimodal, fuse: bool):
        self.half = copy.deepcopy(model).to(TYPE)
        self._pairs = [(p, h) for p, h in zip(model.parameters(), self.half.parameters(), strict=True)]
        for layer in self.half.model.language_model.model.layers if fuse else ():
            layer._qkv = torch.compile(layer._qkv, dynamic=True)  # type: ignore[union-attr]
            layer._finish = torch.compile(layer._finish, dynamic=True)  # type: ignore[union-attr]

    def losses(self, batch: dict) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and mean squared error of a packed batch."""
        for name in ("packed_vit_tokens", "padded_latent"):
            batch[name] = batch[name].to(TYPE)
        out = self.half(**batch)
        return out["ce"].float().mean(), out["mse"].float().mean()

    @torch.no_grad()
    def gradients_back(self) -> None:
        for p, h in self._pairs:
            p.grad = None if h.grad is None else h.grad.float()
            h.grad = None

    @torch.no_grad()
    def weights_over(self) -> None:
        torch._foreach_copy_([h for _, h in self._pairs], [p for p, _ in self._pairs])


def train(
    model: BagelForUnifiedMultimodal, vae: AutoEncoder, packer: Packer, config: dict, state: State, steps: int
) -> Average:
    torch.manual_seed(config["seed"])
    tools, average, start = optimizers(model, config), Average(model, config["ema"]), 0
    peaks = [t.param_groups[0]["lr"] for t in tools]
    if (saved := state.load()) is not None:
        model.load_state_dict(saved["model"])
        average.values, average.steps, start = saved["average"], saved["step"], saved["step"]
        for tool, values in zip(tools, saved["optimizers"], strict=True):
            tool.load_state_dict(values)
    rng = random.Random(config["seed"] * 1_000_003 + start)
    torch.manual_seed(config["seed"] * 1_000_003 + start)
    pools = Pools(vae, config, rng)
    while len(pools.pools["draw"]) < config["first_fill"]:
        pools.grow(512)
    mixed, began = Mixed(model, config["fuse"]), time.monotonic()

    def save(step: int) -> None:
        state.save(
            model=model.state_dict(), average=average.values, optimizers=[t.state_dict() for t in tools], step=step
        )

    for step in range(start, steps):
        scale = factor(step, steps, config["warmup"], config["decay_steps"])
        for tool, peak in zip(tools, peaks, strict=True):
            for group in tool.param_groups:
                group["lr"] = peak * scale
        if step == steps - config["decay_steps"]:
            save(step)
            state.keep("trunk")
        pools.grow(config["fresh"])
        ce, mse = mixed.losses(packer.pack(pools.batch(), rng))
        (config["ce_weight"] * ce + mse).backward()
        mixed.gradients_back()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for tool in tools:
            tool.step()
        mixed.weights_over()
        average.update(model)
        if step % 10 == 0:
            state.log(step=step, ce=ce.item(), mse=mse.item(), rate=scale, minutes=(time.monotonic() - began) / 60)
        if state.due() or step + 1 == steps:
            save(step + 1)
    return average


def load_vae(path: Path, base_width: int) -> AutoEncoder:
    vae = AutoEncoder(base_width)
    vae.load_state_dict(torch.load(path, weights_only=True)["vae"])
    return vae.eval().requires_grad_(False)


def run(config: dict, folder: Path, steps: int | None = None) -> None:
    """Everything a folder lacks: tokenizer.json, vae-final.pt, then the model up to `steps` (else the config's)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_file = folder / "tokenizer.json"
    if not tokenizer_file.exists():
        train_tokenizer(config["model"]["vocabulary"], config["model"]["seed"]).save(str(tokenizer_file))
    train_vae.run(config["vae"], folder)
    vae = load_vae(folder / "vae-final.pt", config["vae"]["base_width"])
    shape = model_config(config["model"])
    torch.manual_seed(config["model"]["seed"])
    model = BagelForUnifiedMultimodal(shape)
    side = config["model"]["vit_side"]
    rule, draws = ResizeRule(side, side, PATCH), config["training"]["draws"]
    packer = Packer(Tokenizer.from_file(str(tokenizer_file)), shape, rule, draws)
    train(model, vae, packer, config["training"], State(folder, "model"), steps or config["training"]["steps"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--steps", type=int, help="instead of the config's")
    args = parser.parse_args()
    stop_when_told()
    run(tomllib.loads(args.config.read_text()), args.state, args.steps)


if __name__ == "__main__":
    main()

"""Training of bagel-nano's VAE: first both halves, then the decoder alone on latents in BAGEL's constants."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bagel_export.reference.vae import SCALE, SHIFT, AutoEncoder
from bench.nano.arithmetic import autocast
from bench.nano.render import render
from bench.nano.state import Average, State
from bench.nano.world import Scene, random_scene

FIRST_LOGVAR = -5.0  # a posterior that starts wide drowns the mean, and nothing is learned for long


def pixels(scenes: list[Scene], side: int = 64) -> Tensor:
    """(n, 3, side, side) in -1..1."""
    images = np.stack([render(s, side) for s in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


def rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine down to nothing."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def reconstruction(seen: Tensor, wanted: Tensor) -> Tensor:
    """Absolute and squared error, and that of the gradients: shapes are few pixels, and edges make them."""
    error = seen - wanted
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 4 * error.square().mean() + 0.5 * edges


def train(config: dict, state: State) -> AutoEncoder:
    torch.manual_seed(config["seed"])
    vae = AutoEncoder(config["base_width"])
    bias = vae.encoder.conv_out.bias
    assert bias is not None
    torch.nn.init.constant_(bias.data[len(bias) // 2 :], FIRST_LOGVAR)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=0, betas=(0.9, 0.99), weight_decay=1e-4)
    average, start = Average(vae, config["ema"]), 0
    if (saved := state.load()) is not None:
        vae.load_state_dict(saved["vae"])
        optimizer.load_state_dict(saved["optimizer"])
        average.values, average.steps, start = saved["average"], saved["step"], saved["step"]
    began = time.monotonic()
    for step in range(start, config["steps"]):
        rng = random.Random(config["seed"] * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, config["steps"], config["learning_rate"], config["warmup"])
        x = pixels([random_scene(rng) for _ in range(config["batch"])])
        with autocast():
            mean, logvar = vae.encoder(x).float().chunk(2, dim=1)
            logvar = logvar.clamp(-20, 10)
            z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
            y = vae.decoder(z).float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        centred = mean.mean(dim=(0, 2, 3)).square().mean()
        error = reconstruction(y, x)
        loss = error + config["kl_weight"] * kl + config["mean_weight"] * centred
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update(vae)
        if step % 50 == 0:
            state.log(step=step, error=error.item(), kl=kl.item(), minutes=(time.monotonic() - began) / 60)
        if state.due() or step + 1 == config["steps"]:
            state.save(vae=vae.state_dict(), optimizer=optimizer.state_dict(), average=average.values, step=step + 1)
    vae.load_state_dict(average.values)
    return vae


@torch.no_grad()
def scale_latents(vae: AutoEncoder, seed: int, batches: int = 16) -> None:
    """Fold a factor per channel into both ends so that latents in BAGEL's constants have unit variance, mean zero.

    SCALE * (z - SHIFT) is what BAGEL feeds its decoder; the factor is exact at borders, the mean is not, and training
    kept it at zero, so only SHIFT itself is moved; polishing adapts the decoder to it.
    """
    rng = random.Random(seed)
    means = torch.cat(
        [vae.encoder(pixels([random_scene(rng) for _ in range(64)])).chunk(2, 1)[0] for _ in range(batches)]
    )
    factor = 1 / (SCALE * means.std(dim=(0, 2, 3)))
    offset = SHIFT - means.mean(dim=(0, 2, 3)) * factor
    out, into = vae.encoder.conv_out, vae.decoder.conv_in
    assert out.bias is not None
    assert into.bias is not None
    n = len(factor)
    out.weight[:n] *= factor[:, None, None, None]
    out.bias[:n] = out.bias[:n] * factor + offset
    out.bias[n:] += 2 * factor.log()
    into.bias -= (into.weight * (offset / factor)[None, :, None, None]).sum(dim=(1, 2, 3))
    into.weight /= factor[None, :, None, None]


def polish(vae: AutoEncoder, config: dict, state: State, done: int = 0) -> None:
    """Train the decoder alone on the scaled latents, a little noisy as a sampler's are: the steps that are left."""
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=0, betas=(0.9, 0.99), weight_decay=1e-4)
    steps, average = config["polish_steps"] - done, Average(vae, config["ema"])
    for step in range(steps):
        rng = random.Random(config["seed"] * 7_000_003 + done + step)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, config["learning_rate"] / 3, 20)
        x = pixels([random_scene(rng) for _ in range(config["batch"])])
        with torch.no_grad(), autocast():
            latent = vae.encode(x)
            amount = torch.rand(len(x), 1, 1, 1) * 2 * config["polish_noise"]
            latent = latent + amount * torch.randn_like(latent)
        with autocast():
            error = reconstruction(vae.decode(latent).float(), x)
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimizer.step()
        average.update(vae)
        if step % 50 == 0:
            state.log(polish=done + step, error=error.item())
    vae.load_state_dict(average.values)


def run(config: dict, folder: Path) -> None:
    """Train, scale and polish; the result is vae-final.pt in the state folder.

    Polishing may be lengthened later: the latents stay what they were, and so does a model trained on them.
    """
    state, final = State(folder, "vae"), State(folder, "vae-final")
    if (saved := final.load()) is None:
        vae = train(config, state)
        scale_latents(vae, config["seed"])
        saved = {"vae": vae.state_dict(), "polished": 0}
        final.save(**saved)
    if saved["polished"] < config["polish_steps"]:
        vae = AutoEncoder(config["base_width"])
        vae.load_state_dict(saved["vae"])
        polish(vae, config, state, saved["polished"])
        final.save(vae=vae.state_dict(), polished=config["polish_steps"])

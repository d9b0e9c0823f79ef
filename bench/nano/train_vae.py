"""Training of bagel-nano's VAE: first both halves, then the decoder alone on latents in BAGEL's constants."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch import Tensor

from bagel_export.reference.vae import SCALE, SHIFT, AutoEncoder
from bench.nano.arithmetic import autocast
from bench.nano.pack import pixels
from bench.nano.state import Average, Progress, State, Stopped, must_stop
from bench.nano.supply import Pictures, Supply

BEGUN = "vae-start"  # of a state folder: weights to begin with
FIRST_LOGVAR = -5.0  # a posterior that starts wide drowns the mean, and nothing is learned for long


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


def weights_of(vae: AutoEncoder) -> dict[str, Tensor]:
    """As files keep them, whatever order they are computed in."""
    return {name: value.contiguous() for name, value in vae.state_dict().items()}


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def learn(vae: AutoEncoder, x: Tensor, optimizer: torch.optim.Optimizer, config: dict) -> tuple[Tensor, Tensor]:
    """One step of both halves on pictures (n, 3, side, side); the reconstruction's error and the divergence."""
    with autocast(x.device):
        mean, logvar = vae.encoder(x).float().chunk(2, dim=1)
        logvar = logvar.clamp(-20, 10)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        y = vae.decoder(z).float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    centred = mean.mean(dim=(0, 2, 3)).square().mean()
    error = reconstruction(y, x)
    step_down(vae, error + config["kl_weight"] * kl + config["mean_weight"] * centred, optimizer)
    return error, kl


def step_down(module: torch.nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


def first_vae(config: dict, begun: dict | None) -> AutoEncoder:
    """As it is before its first step: random, or with the weights of another."""
    vae = AutoEncoder(config["base_width"])
    if begun is not None:
        vae.load_state_dict(begun["vae"])
        return vae
    bias = vae.encoder.conv_out.bias
    assert bias is not None
    torch.nn.init.constant_(bias.data[len(bias) // 2 :], FIRST_LOGVAR)
    return vae


def train(config: dict, state: State, device: torch.device, workers: int = 0) -> AutoEncoder:
    torch.manual_seed(config["seed"])
    begun = State(state.path.parent, BEGUN).load()
    if begun is not None:  # its latents are scaled: their means are no longer near zero
        config = config | {"steps": config["tune_steps"], "learning_rate": config["tune_rate"], "mean_weight": 0.0}
    vae = first_vae(config, begun).to(device, memory_format=torch.channels_last)  # a third less time on a CPU
    optimizer = torch.optim.AdamW(vae.parameters(), lr=0, betas=(0.9, 0.99), weight_decay=1e-4)
    average, start = Average(vae, config["ema"]), 0
    if (saved := state.load(device)) is not None:
        vae.load_state_dict(saved["vae"])
        optimizer.load_state_dict(saved["optimizer"])
        average.values, average.steps, start = saved["average"], saved["step"], saved["step"]
    began, progress = time.monotonic(), Progress("VAE", start, config["steps"])
    with Supply(Pictures(config["batch"], config["pictures"], config["seed"]), workers) as supply:
        for step in range(start, config["steps"]):
            set_rate(optimizer, rate(step, config["steps"], config["learning_rate"], config["warmup"]))
            error, kl = learn(vae, pixels(supply(step), device), optimizer, config)
            average.update(vae)
            if step % 50 == 0:
                state.log(step=step, error=error.item(), kl=kl.item(), minutes=(time.monotonic() - began) / 60)
            progress.say(step + 1)
            if state.due() or step + 1 == config["steps"]:
                parts = {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "average": average.values}
                state.save(**parts, step=step + 1)
    vae.load_state_dict(average.values)
    return vae


@torch.no_grad()
def scale_latents(vae: AutoEncoder, pictures: Pictures, batches: int = 16) -> None:
    """Fold a factor per channel into both ends so that latents in BAGEL's constants have unit variance, mean zero.

    SCALE * (z - SHIFT) is what BAGEL feeds its decoder; the factor is exact at borders, the mean is not, and training
    kept it at zero, so only SHIFT itself is moved; polishing adapts the decoder to it.
    """
    out, into = vae.encoder.conv_out, vae.decoder.conv_in
    seen = (pixels(pictures(i), out.weight.device) for i in range(batches))
    means = torch.cat([vae.encoder(x).chunk(2, 1)[0] for x in seen])
    factor = 1 / (SCALE * means.std(dim=(0, 2, 3)))
    offset = SHIFT - means.mean(dim=(0, 2, 3)) * factor
    assert out.bias is not None
    assert into.bias is not None
    n = len(factor)
    out.weight[:n] *= factor[:, None, None, None]
    out.bias[:n] = out.bias[:n] * factor + offset
    out.bias[n:] += 2 * factor.log()
    into.bias -= (into.weight * (offset / factor)[None, :, None, None]).sum(dim=(1, 2, 3))
    into.weight /= factor[None, :, None, None]


def polish(vae: AutoEncoder, config: dict, state: State, device: torch.device, done: int = 0, workers: int = 0) -> None:
    """Train the decoder alone on the scaled latents, a little noisy as a sampler's are: the steps that are left."""
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=0, betas=(0.9, 0.99), weight_decay=1e-4)
    steps, average = config["polish_steps"] - done, Average(vae, config["ema"])
    progress = Progress("VAE's polish", 0, steps)
    with Supply(Pictures(config["batch"], config["pictures"], config["seed"] + 6), workers) as supply:
        for step in range(steps):
            set_rate(optimizer, rate(step, steps, config["learning_rate"] / 3, 20))
            error = polish_once(vae, pixels(supply(done + step), device), optimizer, config["polish_noise"])
            average.update(vae)
            if step % 50 == 0:
                state.log(polish=done + step, error=error.item())
            progress.say(step + 1)
            if must_stop():
                raise Stopped("stopped while the VAE was polished, which begins anew")
    vae.load_state_dict(average.values)


def polish_once(vae: AutoEncoder, x: Tensor, optimizer: torch.optim.Optimizer, noise: float) -> Tensor:
    with torch.no_grad(), autocast(x.device):
        latent = vae.encode(x)
        amount = torch.rand(len(x), 1, 1, 1, device=x.device) * 2 * noise
        latent = latent + amount * torch.randn_like(latent)
    with autocast(x.device):
        error = reconstruction(vae.decode(latent).float(), x)
    step_down(vae.decoder, error, optimizer)
    return error


def run(config: dict, folder: Path, device: torch.device, workers: int = 0) -> None:
    """Train, scale and polish; the result is vae-final.pt in the state folder.

    Polishing may be lengthened later: the latents stay what they were, and so does a model trained on them.
    """
    state, final = State(folder, "vae"), State(folder, "vae-final")
    if (saved := final.load(device)) is None:
        vae = train(config, state, device, workers)
        scale_latents(vae, Pictures(64, config["pictures"], config["seed"] + 3), config["scale_batches"])
        saved = {"vae": weights_of(vae), "polished": 0}
        final.save(**saved)
    if saved["polished"] < config["polish_steps"]:
        vae = AutoEncoder(config["base_width"]).to(device, memory_format=torch.channels_last)
        vae.load_state_dict(saved["vae"])
        polish(vae, config, state, device, saved["polished"], workers)
        final.save(vae=weights_of(vae), polished=config["polish_steps"])

"""The rectified-flow sampler in plain PyTorch: time schedule and guidance, as the official code has them."""

from __future__ import annotations

import torch
from torch import Tensor

from bagel_rt.options.image_options import ImageOptions


def schedule(points: int, shift: float) -> Tensor:
    """`points` times from 1 to 0; a step goes from each to the next."""
    s = torch.linspace(1, 0, points)
    return shift * s / (1 + (shift - 1) * s)


def scales(options: ImageOptions, t: Tensor) -> tuple[float, float]:
    """Text and image guidance at time t; both are 1 outside the interval, which is open below."""
    low, high = torch.tensor(options.cfg_interval, dtype=torch.float32)
    return (options.cfg_text_scale, options.cfg_img_scale) if low < t <= high else (1.0, 1.0)


def guided(cond: Tensor, text: Tensor | None, image: Tensor | None, options: ImageOptions, t: Tensor) -> Tensor:
    """One velocity (n, 64) from those of the branches; without `text` it is the conditional one."""
    if text is None:
        return cond
    text_scale, image_scale = scales(options, t)
    pushed = text + text_scale * (cond - text)
    if options.cfg_renorm_type == "text_channel":
        pushed = pushed * _shrink(cond, pushed, options.cfg_renorm_min, rows=True)
        return pushed if image is None else image + image_scale * (pushed - image)
    if image is not None:
        pushed = image + image_scale * (pushed - image)
    return pushed * _shrink(cond, pushed, options.cfg_renorm_min, rows=options.cfg_renorm_type == "channel")


def _shrink(cond: Tensor, pushed: Tensor, least: float, rows: bool) -> Tensor:
    norm = lambda x: x.norm(dim=-1, keepdim=True) if rows else x.norm()  # noqa: E731
    return (norm(cond) / (norm(pushed) + 1e-8)).clamp(least, 1.0)

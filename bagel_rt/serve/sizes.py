"""OpenRouter's image_config as a width and a height."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from bagel_rt.artefact.manifest import Manifest
from bagel_rt.options import checks
from bagel_rt.serve.failures import refused

SIZES = {"0.5K": 512, "1K": 1024, "2K": 2048, "4K": 4096}  # the side of the square with as many pixels


def with_image_config(manifest: Manifest, config: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with width and height as an aspect ratio and a size ask for; sizes given otherwise count more.

    Without an image_size the picture has as many pixels as the model's largest trained square. Raises ApiError.
    """
    if config is None or "width" in options or "height" in options:
        return dict(options)
    if not isinstance(config, Mapping):
        raise refused(f"image_config is {checks.shown(config)}; an object is expected", "image_config")
    ratio, size = config.get("aspect_ratio"), config.get("image_size")
    if ratio is None and size is None:
        return dict(options)
    side = manifest.vae_transform.max_size if size is None else _side(size)
    wide, high = (1, 1) if ratio is None else _ratio(ratio)
    scale = side / math.sqrt(wide * high)
    if size is None:
        scale = min(scale, manifest.vae_transform.max_size / max(wide, high))
    stride = manifest.model.latent_stride
    width, height = (max(stride, round(part * scale / stride) * stride) for part in (wide, high))
    return {**options, "width": width, "height": height}


def _side(size: Any) -> int:
    if not isinstance(size, str) or size not in SIZES:
        raise refused(f"image_size is {checks.shown(size)}; allowed: {', '.join(SIZES)}", "image_config")
    return SIZES[size]


def _ratio(ratio: Any) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", ratio) if isinstance(ratio, str) else None
    if found is None or not int(found[1]) or not int(found[2]):
        raise refused(f"aspect_ratio is {checks.shown(ratio)}; two numbers, as 16:9, are expected", "image_config")
    return int(found[1]), int(found[2])

"""What training computes on and in: a CUDA card where there is one; bfloat16 there and where a CPU has instructions for
it, else float32.

PyTorch 2.13 takes bfloat16 on every CPU and emulates it: on one with AVX2 alone a step took tens of times as long.
"""

from __future__ import annotations

import functools

import torch


def found_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def type_on(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" or _native() else torch.float32


def _native() -> bool:
    """As PyTorch says of this CPU; a version that does not say counts as no."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


def autocast(device: torch.device) -> torch.autocast:
    """Products inside are in the device's type, whatever the model's weights are in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=type_on(device) is torch.bfloat16)

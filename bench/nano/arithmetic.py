"""What training computes on and in: a CUDA card where there is one; bfloat16 there and on a CPU that is faster in it.

PyTorch 2.13 takes bfloat16 on every CPU and emulates it: with AVX2 alone a step took tens of times as long. That a CPU
has instructions for it is not enough: with AVX-512's, but without AMX, a step took 1.5 times as long as in float32, and
one of the VAE's twice. So a product is timed in both.
"""

from __future__ import annotations

import functools
import time

import torch


def found_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def type_on(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" or (_native() and _faster()) else torch.float32


def _native() -> bool:
    """As PyTorch says of this CPU; a version that does not say counts as no."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


def _faster() -> bool:
    return min(_taken(torch.bfloat16) for _ in range(3)) < min(_taken(torch.float32) for _ in range(3))


def _taken(dtype: torch.dtype) -> float:
    """Seconds of a product with a layer's weights, forth and back."""
    rows, weight = torch.randn(4096, 256, dtype=dtype), torch.randn(512, 256, dtype=dtype, requires_grad=True)
    began = time.perf_counter()
    (rows @ weight.T).sum().backward()
    return time.perf_counter() - began


def autocast(device: torch.device) -> torch.autocast:
    """Products inside are in the device's type, whatever the model's weights are in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=type_on(device) is torch.bfloat16)

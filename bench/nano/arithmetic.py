"""What training computes in: bfloat16 where the CPU has instructions for it, else float32.

PyTorch 2.13 takes bfloat16 on every CPU and emulates it: on one with AVX2 alone a step took tens of times as long.
"""

from __future__ import annotations

import torch


def _native() -> bool:
    """As PyTorch says of this CPU; a version that does not say counts as no."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


TYPE = torch.bfloat16 if _native() else torch.float32


def autocast() -> torch.autocast:
    """Products inside are in TYPE, whatever the model's weights are in."""
    return torch.autocast("cpu", torch.bfloat16, enabled=TYPE is torch.bfloat16)

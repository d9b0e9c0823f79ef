"""Random numbers on processors without AVX2 or AVX-512: the same bits, in numpy and, of exponentials, in torch."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

PRINTED = """
import hashlib, json
from bagel_rt.sampling.torch_noise import TorchNoise
from bagel_rt.sampling.schedule import timesteps
numbers = [TorchNoise(seed).normal(1024, 64) for seed in range(4)] + [TorchNoise(5).normal(17)]
numbers += [TorchNoise(seed).exponential(152064) for seed in range(2)] + [timesteps(50, 3.0)]
print(json.dumps([hashlib.sha256(one.tobytes()).hexdigest() for one in numbers]))
"""
LEVELS = {
    "without AVX-512": ("X86_V4", "AVX512_ICL", "AVX512_SPR"),
    "without AVX2": ("X86_V3", "X86_V4", "AVX512_ICL", "AVX512_SPR"),
}
OLD_NAMES = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"  # of numpy before 2.4
IN_TORCH = """
import json, torch
import numpy as np
from bagel_rt.sampling.torch_noise import TorchNoise
apart, equal = 0.0, True
for seed in range(4):
    torch.manual_seed(seed)
    apart = max(apart, float(np.abs(torch.randn(1024, 64).numpy() - TorchNoise(seed).normal(1024, 64)).max()))
    torch.manual_seed(seed)
    equal &= bool(np.array_equal(torch.empty(1000).exponential_().numpy(), TorchNoise(seed).exponential(1000)))
print(json.dumps([torch.backends.cpu.get_cpu_capability(), apart, equal]))
"""


def printed(code: str, **changed: str):
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **changed}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def switched_off(names: tuple[str, ...]) -> str:
    """Of these features those that this numpy can leave out on this machine."""
    import numpy._core._multiarray_umath as umath

    found = [name for name in (*names, *OLD_NAMES.split()) if umath.__cpu_features__.get(name)]
    return " ".join(dict.fromkeys(name for name in found if name not in umath.__cpu_baseline__))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86's instructions are switched off")
@pytest.mark.parametrize("level", LEVELS)
def test_noise_and_schedule_are_the_same_bits_on_a_lesser_processor(level):
    off = switched_off(LEVELS[level])
    if not off:
        pytest.skip("this processor has none of these")
    assert printed(PRINTED, NPY_DISABLE_CPU_FEATURES=off) == printed(PRINTED)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86's instructions are switched off")
@pytest.mark.parametrize("capability, limit", [("avx2", 1e-6), ("default", 3e-6)])
def test_torch_on_a_lesser_processor_draws_the_same_stream(capability, limit):
    """Its exponentials to the bit; its normal numbers, without vector instructions, by another logarithm and cosine."""
    named, apart, equal = printed(IN_TORCH, ATEN_CPU_CAPABILITY=capability)
    assert named.lower() == capability
    assert apart <= limit
    assert equal

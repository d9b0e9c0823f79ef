"""The random numbers of torch's CPU generator, without torch: the same seed gives the official picture and text.

torch seeds a 32-bit Mersenne twister, takes 24 bits per uniform number and turns blocks of 16 into normal ones by
Box-Muller, the first 8 as radius and the last 8 as angle; this is what torch.randn does for 16 numbers or more.
torch.multinomial takes 64 bits per exponential number. torch before 2.5 took those from Intel's library instead, and
on a GPU torch has another generator for them: text sampled there cannot be reproduced.
"""

from __future__ import annotations

import copy

import numpy as np

BLOCK = 16


class TorchNoise:
    """The stream that torch's CPU generator is after torch.manual_seed(seed): every draw goes on where the last ended.

    Normal numbers agree with torch's vectorised code within 1e-6. Any integer is a seed; torch, too, keeps its low 32
    bits.
    """

    def __init__(self, seed: int):
        key = np.random.RandomState(seed & 0xFFFFFFFF).get_state(legacy=False)["state"]["key"]
        self._bits = np.random.MT19937()
        self._bits.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": 624}}

    def copy(self) -> TorchNoise:
        """A second stream that goes on as this one would."""
        return copy.deepcopy(self)

    def normal(self, *shape: int) -> np.ndarray:
        """The next torch.randn(shape); at least 16 numbers."""
        count = int(np.prod(shape))
        if count < BLOCK:
            raise ValueError(f"torch draws fewer than {BLOCK} numbers by another method; {count} were asked for")
        uniform = self._uniform(count)
        out = np.empty(count, np.float32)
        whole = count - count % BLOCK
        out[:whole] = _box_muller(uniform[:whole])
        if whole < count:  # torch draws the last block afresh, overlapping the one before
            out[count - BLOCK :] = _box_muller(self._uniform(BLOCK))
        return out.reshape(shape)

    def exponential(self, count: int) -> np.ndarray:
        """The next torch.empty(count).exponential_(), to the bit: each from 53 of 64 bits, computed in float64."""
        halves = self._bits.random_raw(2 * count).reshape(-1, 2)
        bits = ((halves[:, 0] << np.uint64(32)) | halves[:, 1]) & np.uint64((1 << 53) - 1)
        return -np.log1p(-(bits * 2.0**-53)).astype(np.float32)

    def skip_exponential(self, count: int) -> None:
        """Move to where the stream stands after exponential(count)."""
        self._bits.random_raw(2 * count, output=False)

    def _uniform(self, count: int) -> np.ndarray:
        return (self._bits.random_raw(count) & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    # rounded to float32 where torch rounds: an angle near 2 pi carries an error of 2e-7, which the radius multiplies
    pairs = uniform.reshape(-1, 2, BLOCK // 2)
    logarithm = np.log((np.float32(1.0) - pairs[:, 0]).astype(np.float64)).astype(np.float32)
    radius = np.sqrt(np.float32(-2.0) * logarithm)
    angle = (np.float32(2.0 * np.pi) * pairs[:, 1]).astype(np.float64)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    return np.stack([radius * cos, radius * sin], axis=1).reshape(-1)

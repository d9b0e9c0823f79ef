"""The key-value cache in the machine's own memory, for engines that compute there."""

from __future__ import annotations

import numpy as np

from bagel_engines.number_formats import KEPT_AS, narrowed, widened
from bagel_engines.protocol import Tensor


class HostCache:
    """A protocol.Cache in a numpy array. Its pages are virtual until a slot is written, so unused room takes no
    memory."""

    def __init__(self, halves: int, slots: int, row: tuple[int, int], dtype: np.dtype):
        try:
            self._by_half = np.zeros((halves, slots, *row), dtype)
        except ValueError as error:  # more than an array can address
            raise MemoryError(str(error)) from error

    @property
    def tensor(self) -> np.ndarray:
        halves, slots, *row = self._by_half.shape
        return self._by_half.reshape(halves * slots, *row)

    def write(self, slots: np.ndarray, rows: Tensor) -> None:
        self._by_half[:, slots] = rows

    def move(self, source: int, target: int, count: int) -> None:
        self._by_half[:, target : target + count] = self._by_half[:, source : source + count]

    def read(self, slots: np.ndarray) -> np.ndarray:
        return self._by_half[:, slots]


class NarrowCache(HostCache):
    """Keys and values that are written and read as float32 and stored in 16 bits.

    For graphs that take a float32 pool on an engine that multiplies in 16 bits: given float32, it would round the whole
    pool in every call. Rounding each row once, when it is written, gives the same numbers.
    """

    def __init__(self, halves: int, slots: int, row: tuple[int, int], kept: str):
        super().__init__(halves, slots, row, KEPT_AS[kept])
        self._kept = kept

    def write(self, slots: np.ndarray, rows: Tensor) -> None:
        super().write(slots, narrowed(np.asarray(rows), self._kept))

    def read(self, slots: np.ndarray) -> np.ndarray:
        return widened(super().read(slots), self._kept)

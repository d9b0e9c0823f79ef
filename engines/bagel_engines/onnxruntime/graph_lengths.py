"""Numbers that a graph for CUDA is told beside its inputs, because taking them from shapes would be done on the CPU.

`pool_half` int64 (): slots of the pool. `length` and `und_length` int32 (), on the host: tokens of the cache behind all
rows, and behind the und rows; each with `_last` int32 (1,), one less, on the device.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from bagel_engines.device.arrays import DeviceArray, Memory, on_device
from bagel_engines.onnxruntime.fused_attention import LENGTHS
from bagel_engines.onnxruntime.pool_half import HALF, POOL

LAST = "_last"
TOLD = (HALF, *LENGTHS, *(f"{name}{LAST}" for name in LENGTHS))
KEPT = 8  # sets of numbers

Told = Mapping[str, DeviceArray | np.ndarray]


class GraphLengths:
    """wanted: names of the graph's inputs. halves: how many halves its pool has. Numbers are made once for each size of
    inputs; what is done with them keeps them."""

    def __init__(self, memory: Memory, wanted: tuple[str, ...], halves: int):
        self._memory, self._halves = memory, halves
        self._wanted = tuple(name for name in wanted if name in TOLD)
        self._half: tuple[int, DeviceArray] | None = None
        self._kept: OrderedDict[tuple[int, int], Told] = OrderedDict()

    def of(self, given: Mapping[str, Any]) -> Told:
        """given: the inputs, of which the shapes are read."""
        found: dict[str, Any] = {}
        if HALF in self._wanted:
            found[HALF] = self._slots(given[POOL].shape[0] // self._halves)
        if any(name in self._wanted for name in LENGTHS):
            und = given["slots"].shape[0] + given["und"].shape[0]
            found |= self._lengths(und, und + (given["gen"].shape[0] if "gen" in given else 0))
        return found

    def _slots(self, slots: int) -> DeviceArray:
        if self._half is None or self._half[0] != slots:
            self._half = slots, on_device(self._memory, np.array(slots, np.int64))
        return self._half[1]

    def _lengths(self, und: int, whole: int) -> Told:
        key = (und, whole)
        if key not in self._kept:
            self._kept[key] = self._made(dict(zip(LENGTHS, key, strict=True)))
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _made(self, ends: Mapping[str, int]) -> Told:
        made: dict[str, DeviceArray | np.ndarray] = {}
        for name, end in ends.items():
            if name in self._wanted:
                made[name] = np.array(end, np.int32)
                made[f"{name}{LAST}"] = on_device(self._memory, np.array([end - 1], np.int32))
        return made

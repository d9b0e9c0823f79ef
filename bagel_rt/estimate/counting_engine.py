"""An engine that computes nothing and counts its calls.

To estimate a request, the real code of the request is run on it: the counts are right for every option, because no
second description of what a request does has to be kept in step.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines import EngineInfo, Runner, Tensor
from bagel_engines.device.largest import FOUND, LARGEST, ROWS
from bagel_engines.device.linear_sums import SUM_GRAPHS
from bagel_engines.protocol import Arrays, LowRank, Tensors
from bagel_rt.artefact.contract import GraphSpec, ModelDims, dim_value, graph_specs


@dataclass(frozen=True)
class Call:
    """A call of a graph at certain sizes: (symbol of the contract, value), sorted by symbol. Absent symbols count as
    0."""

    graph: str
    sizes: tuple[tuple[str, int], ...]

    def __getitem__(self, symbol: str) -> int:
        return dict(self.sizes).get(symbol, 0)


class HeldZeros:
    """Stands for a result on an engine's device (a protocol.Held): it has a shape, and its numbers are zeros."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def numpy(self) -> np.ndarray:
        return np.broadcast_to(np.float32(0), self.shape)


class CountingEngine:
    """An `Engine` whose results are zeros that take no memory.

    calls: how often each was made. tokens: how many slots of the cache were written. held: the largest number of bytes
    of results that the caller kept on the device at one time, as float32. takes_zero_rows: as the engine it stands for.
    """

    info = EngineInfo("counting", "", "nowhere", "")
    needs = None

    def __init__(self, model: ModelDims, arithmetic: str, takes_zero_rows: bool):
        self.takes_zero_rows = takes_zero_rows
        self._specs = graph_specs(model, arithmetic)
        self.calls: Counter[Call] = Counter()
        self.held, self._held_now = 0, 0
        self._cache: _Slots | None = None

    @property
    def tokens(self) -> int:
        return 0 if self._cache is None else int(self._cache.written.sum())

    def load(self, graph: Path, prime: Arrays | None = None, added: LowRank | None = None) -> Runner:
        if graph == LARGEST:
            return _LargestRunner()
        return _SumRunner(self, graph.stem) if graph.stem in SUM_GRAPHS else _GraphRunner(self, self._specs[graph.stem])

    def hold(self, array: np.ndarray) -> np.ndarray:
        return array

    def release(self) -> None: ...

    def cache(self, halves: int, slots: int, row: tuple[int, int], dtype: np.dtype) -> _Slots:
        self._cache = _Slots(halves, slots, row)
        return self._cache

    def result(self, shape: tuple[int, ...], held: bool) -> Any:
        """Zeros of that shape; a result on the device is counted for as long as anybody refers to it."""
        if not held:
            return np.broadcast_to(np.float32(0), shape)
        made, size = HeldZeros(shape), 4 * math.prod(shape)
        self._held_now += size
        self.held = max(self.held, self._held_now)
        weakref.finalize(made, self._released, size)
        return made

    def _released(self, size: int) -> None:
        self._held_now -= size


class _GraphRunner:
    def __init__(self, counting: CountingEngine, spec: GraphSpec):
        self._counting, self._spec = counting, spec
        self.inputs, self.outputs = (tuple(t.name for t in side) for side in (spec.inputs, spec.outputs))

    def run(self, inputs: Tensors, outputs: Sequence[str], held: Container[str] = ()) -> dict[str, Any]:
        sizes = self._sizes(inputs)
        self._counting.calls[Call(self._spec.name, tuple(sorted(sizes.items())))] += 1
        shapes = {t.name: tuple(dim_value(d, sizes) for d in t.shape) for t in self._spec.outputs}
        return {name: self._counting.result(shapes[name], name in held) for name in outputs}

    def _sizes(self, inputs: Tensors) -> dict[str, int]:
        """The values of the contract's symbols in a call, but for the page pool's size, which no call depends on."""
        found = {}
        for tensor in self._spec.inputs:
            for dim, length in zip(tensor.shape, inputs[tensor.name].shape, strict=True):
                if isinstance(dim, str) and dim.isidentifier() and dim != "pool_rows":
                    found[dim] = length
        return found


class _SumRunner:
    """Stands for the graphs plus and slope (device/linear_sums.py): a result of its first input's shape."""

    def __init__(self, counting: CountingEngine, name: str):
        self._counting, self.inputs, self.outputs = counting, SUM_GRAPHS[name], ("out",)

    def run(self, inputs: Tensors, outputs: Sequence[str], held: Container[str] = ()) -> dict[str, Any]:
        return {"out": self._counting.result(inputs[self.inputs[0]].shape, held=True)}


class _LargestRunner:
    """Stands for device/largest.py: the first number of each row."""

    inputs, outputs = (ROWS,), (FOUND,)

    def run(self, inputs: Tensors, outputs: Sequence[str], held: Container[str] = ()) -> dict[str, Any]:
        return {FOUND: np.zeros((inputs[ROWS].shape[0], 2), np.float32)}


class _Slots:
    """A `Cache` without keys and values that notes which slots were written."""

    def __init__(self, halves: int, slots: int, row: tuple[int, int]):
        self.written, self._shape = np.zeros(slots, bool), (halves * slots, *row)

    @property
    def tensor(self) -> np.ndarray:
        return np.broadcast_to(np.float32(0), self._shape)

    def write(self, slots: np.ndarray, rows: Tensor) -> None:
        self.written[slots] = True

    def move(self, source: int, target: int, count: int) -> None:
        self.written[target : target + count] = True

    def read(self, slots: np.ndarray) -> np.ndarray:
        raise NotImplementedError("a counting engine keeps no keys and values")

"""An engine that computes nothing and counts: the real request, run on it, tells which calls it makes."""

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
from bagel_engines.device.linear_sums import SUM_GRAPHS
from bagel_engines.protocol import Arrays, Tensors
from bagel_rt.artefact.contract import GraphSpec, ModelDims, dim_value, graph_specs


@dataclass(frozen=True)
class Call:
    """A call of a graph: the contract's symbols and their values, in order of name."""

    graph: str
    sizes: tuple[tuple[str, int], ...]

    def __getitem__(self, symbol: str) -> int:
        return dict(self.sizes).get(symbol, 0)


class Hollow:
    """A result of some shape that nobody computed, held where the engine would hold it."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def numpy(self) -> np.ndarray:
        return np.broadcast_to(np.float32(0), self.shape)


class CountingEngine:
    """An `Engine` whose results are zeros without memory.

    calls: how often each was made. tokens: slots of the cache that were written. held: the most bytes of results that
    were held at once, in float32. takes_zero_rows: as the engine it stands for.
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

    def load(self, graph: Path, prime: Arrays | None = None) -> Runner:
        return _SumRunner(self, graph.stem) if graph.stem in SUM_GRAPHS else _GraphRunner(self, self._specs[graph.stem])

    def hold(self, array: np.ndarray) -> np.ndarray:
        return array

    def cache(self, halves: int, slots: int, row: tuple[int, int], dtype: np.dtype) -> _Slots:
        self._cache = _Slots(halves, slots, row)
        return self._cache

    def result(self, shape: tuple[int, ...], held: bool) -> Any:
        """Zeros of that shape; what is held counts for as long as somebody has it."""
        if not held:
            return np.broadcast_to(np.float32(0), shape)
        made, size = Hollow(shape), 4 * math.prod(shape)
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
        """The symbols' values; the pool's is left out, which says nothing about a call."""
        found = {}
        for tensor in self._spec.inputs:
            for dim, length in zip(tensor.shape, inputs[tensor.name].shape, strict=True):
                if isinstance(dim, str) and dim.isidentifier() and dim != "pool_rows":
                    found[dim] = length
        return found


class _SumRunner:
    """plus and slope: the shape of what is added."""

    def __init__(self, counting: CountingEngine, name: str):
        self._counting, self.inputs, self.outputs = counting, SUM_GRAPHS[name], ("out",)

    def run(self, inputs: Tensors, outputs: Sequence[str], held: Container[str] = ()) -> dict[str, Any]:
        return {"out": self._counting.result(inputs[self.inputs[0]].shape, held=True)}


class _Slots:
    """A `Cache` that only remembers which slots were written."""

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

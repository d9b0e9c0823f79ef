"""The seam between the runtime and the engines: an engine loads a graph file into a runner, a runner computes."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bagel_engines.memory_needs import Needs


class Held(Protocol):
    """A result that stays where its engine computes; an input for graphs and the cache of the same engine."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def numpy(self) -> np.ndarray:
        """A copy on the host."""
        ...


Tensor = np.ndarray | Held
Arrays = Mapping[str, np.ndarray]
Tensors = Mapping[str, Tensor]


class EngineFailure(RuntimeError):
    """An engine is missing, refuses a graph, or fails in a call. The message says which and what to do."""


class OutOfDeviceMemory(EngineFailure):
    """A device had too little memory for a graph or a call; what was open before is still usable."""


@dataclass(frozen=True)
class EngineInfo:
    """What computes, in words that go into results: arithmetic is the artefact's, or what the caller asked for.

    remark: what else was asked for, and whether it is had.
    """

    name: str
    version: str
    device: str
    arithmetic: str
    remark: str = ""

    def __str__(self) -> str:
        told = ", ".join(word for word in (self.device, self.arithmetic, self.remark) if word)
        return f"{self.name} {self.version} ({told})"


class Runner(Protocol):
    """A loaded graph."""

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def run(self, inputs: Tensors, outputs: Sequence[str], held: Container[str] = ()) -> dict[str, Any]:
        """Compute the named outputs. Input arrays are read in place and not kept; results belong to the caller.

        A bfloat16 tensor is given and returned as uint16, its bits. Outputs named in `held` may stay on the engine's
        device; the others are numpy arrays.
        """
        ...


class Cache(Protocol):
    """The memory behind the page table: (halves * slots, heads, dim), zero at first, where the engine reads it."""

    @property
    def tensor(self) -> Tensor:
        """The whole of it, as an input for the engine's graphs. Graphs read it; nothing but this object writes it."""
        ...

    def write(self, slots: np.ndarray, rows: Tensor) -> None:
        """Put rows (halves, n, heads, dim) at slots (n,) of every half."""
        ...

    def move(self, source: int, target: int, count: int) -> None:
        """Copy `count` slots of every half."""
        ...

    def read(self, slots: np.ndarray) -> np.ndarray:
        """(halves, n, heads, dim), copied to the host."""
        ...


class Engine(Protocol):
    """Makes runners. `takes_zero_rows`: whether a step graph may be called with an empty row input."""

    info: EngineInfo
    takes_zero_rows: bool

    @property
    def needs(self) -> Needs | None:
        """What it takes from main memory; None where it computes elsewhere."""
        ...

    def load(self, graph: Path, prime: Arrays | None = None) -> Runner:
        """Load a graph file. `prime`: inputs for one throw-away call, for engines that specialise on their first."""
        ...

    def hold(self, array: np.ndarray) -> Tensor:
        """The array as an input that need not be brought to the device again."""
        ...

    def cache(self, halves: int, slots: int, row: tuple[int, int], dtype: np.dtype) -> Cache:
        """Room for keys and values. Raises MemoryError where the machine or the device has too little."""
        ...

"""What an engine is: the interfaces that the runtime calls and every engine implements.

An `Engine` loads a graph file as a `Runner`, a runner computes, a `Cache` keeps keys and values where the engine reads
them, and `Held` is a result that stays on the engine's device.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bagel_engines.memory_needs import Needs


class Held(Protocol):
    """A result that stays in its engine's memory (on a GPU, say), to be an input of graphs or the cache of that
    engine."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def numpy(self) -> np.ndarray:
        """A copy on the host."""
        ...


Tensor = np.ndarray | Held
Arrays = Mapping[str, np.ndarray]
Tensors = Mapping[str, Tensor]
OnWeights = Callable[[str, int, int], object]  # a graph, and of the bytes that are brought for it, done and total


class EngineFailure(RuntimeError):
    """An engine is missing, refuses a graph, or fails in a call. The message says which and what to do."""


class OutOfDeviceMemory(EngineFailure):
    """A device had too little memory for a graph or a call; what was open before is still usable."""


@dataclass(frozen=True)
class EngineInfo:
    """What computes, in words that are stored with every result.

    arithmetic: the number format computed in: the artefact's, or the one the caller asked for. remark: what else the
    caller asked for, such as CUDA graphs, and where it could not be done.
    """

    name: str
    version: str
    device: str
    arithmetic: str
    remark: str = ""

    def __str__(self) -> str:
        details = ", ".join(word for word in (self.device, self.arithmetic, self.remark) if word)
        return f"{self.name} {self.version} ({details})"


@dataclass(frozen=True)
class Thin:
    """Two thin matrices beside a weight of (inputs, outputs): down (rank, inputs) and up (rank, outputs), float32."""

    down: np.ndarray
    up: np.ndarray


@dataclass(frozen=True)
class LowRank:
    """Thin products to be added to those of a graph (low_rank.py), by the names of their weights.

    columns and scales are the names of two inputs that the graph gets: which of the ranks a call uses, int64 (n,), and
    what each is multiplied by, float32 (n,).
    """

    products: Mapping[str, Thin]
    columns: str
    scales: str


def refuse_added(added: LowRank | None, engine: str) -> None:
    """For an engine that adds no products to a graph."""
    if added is not None:
        raise EngineFailure(
            f"{engine} cannot switch adapters of a loaded model; onnxruntime and openvino on the CPU can, and an export"
            " with --lora runs everywhere"
        )


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
    """The memory of the key-value cache, where the engine reads it: (halves * slots, heads, dim), zeros at first.

    A slot has room for one token. A half is the keys, or the values, of one layer: 2 * layers halves of `slots` rows
    each lie one behind the other. The page table (bagel_rt.kv_cache) decides which token has which slot.
    """

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
    """Loads graphs on one device. `takes_zero_rows`: whether a graph may be called with an input of no rows, as text is
    run through the graph of both experts."""

    @property
    def info(self) -> EngineInfo:
        """What it is, and what it computes in."""
        ...

    takes_zero_rows: bool

    @property
    def needs(self) -> Needs | None:
        """How much main memory it takes for work of a given size; None for an engine that computes on another
        device."""
        ...

    def load(self, graph: Path, prime: Arrays | None = None, added: LowRank | None = None) -> Runner:
        """Load a graph file. `added`: products beside its own; engines that cannot add them raise EngineFailure.

        `prime`: inputs of a first call, made and thrown away by engines whose first call decides
        how later ones are computed (see openvino.engine)."""
        ...

    def hold(self, array: np.ndarray) -> Tensor:
        """The array as an input that is copied to the device once, not in every call."""
        ...

    def cache(self, halves: int, slots: int, row: tuple[int, int], dtype: np.dtype) -> Cache:
        """Make a cache for keys and values, `row` being (heads, dim). Raises MemoryError where there is too little
        memory."""
        ...

    def release(self) -> None:
        """Give back what is kept for later calls; the engine can be used again."""
        ...

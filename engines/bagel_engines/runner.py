"""The seam between the runtime and the engines: an engine loads a graph file into a runner, a runner computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

Arrays = Mapping[str, np.ndarray]


class EngineFailure(RuntimeError):
    """An engine is missing, refuses a graph, or fails in a call. The message says which and what to do."""


@dataclass(frozen=True)
class EngineInfo:
    """What computes, in words that go into results: arithmetic is the artefact's, or what the caller asked for."""

    name: str
    version: str
    device: str
    arithmetic: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.device}, {self.arithmetic})"


class Runner(Protocol):
    """A loaded graph."""

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Compute the named outputs. Input arrays are read in place and not kept; results belong to the caller.

        A bfloat16 tensor is given and returned as uint16, its bits.
        """
        ...


class Engine(Protocol):
    """Makes runners. `takes_zero_rows`: whether a step graph may be called with an empty row input."""

    info: EngineInfo
    takes_zero_rows: bool

    def load(self, graph: Path, prime: Arrays | None = None) -> Runner:
        """Load a graph file. `prime`: inputs for one throw-away call, for engines that specialise on their first."""
        ...

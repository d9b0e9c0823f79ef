"""The artefact's graphs as functions: opened when first used, called by contract names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bagel_engines import Engine, Runner, Tensor
from bagel_rt import contract
from bagel_rt.contract import graph_specs
from bagel_rt.errors import ArtefactError
from bagel_rt.failures import named_failures
from bagel_rt.manifest import Manifest


class Graphs:
    """Callable graphs of one artefact on one engine. `calls` counts the engine calls by graph."""

    def __init__(self, manifest: Manifest, engine: Engine):
        self._manifest, self._engine = manifest, engine
        self._specs = graph_specs(manifest.model, manifest.arithmetic)
        self._runners: dict[str, Runner] = {}
        self.calls: dict[str, int] = {}

    @property
    def engine(self) -> Engine:
        return self._engine

    def __call__(
        self, graph: str, only: tuple[str, ...] | None = None, held: tuple[str, ...] = (), **inputs: Tensor
    ) -> tuple[Any, ...]:
        """Run a graph; returns its outputs in the contract's order, or those named in `only`, as numpy arrays.

        Those in `held` may stay with the engine: inputs for its graphs and its cache, and nothing else.
        """
        runner = self._runners.get(graph) or self.open(graph)
        names = only or tuple(t.name for t in self._specs[graph].outputs)
        self.calls[graph] = self.calls.get(graph, 0) + 1
        with named_failures():
            out = runner.run(inputs, names, held)
        return tuple(out[name] for name in names)

    def hold(self, array: np.ndarray) -> Tensor:
        """The array as an input that is brought to the engine's device once."""
        with named_failures():
            return self._engine.hold(array)

    def open(self, graph: str) -> Runner:
        """Load a graph and check that it speaks the contract."""
        path = self._manifest.graph_file(graph)
        with named_failures():
            runner = self._engine.load(path, self._prime(graph))
        spec = self._specs[graph]
        for kind, found, stated in (("inputs", runner.inputs, spec.inputs), ("outputs", runner.outputs, spec.outputs)):
            if set(found) != {t.name for t in stated}:
                names = ", ".join(t.name for t in stated)
                raise ArtefactError(f"{path}: its {kind} are {', '.join(found)}, the contract's {names}; export again")
        self._runners[graph] = runner
        return runner

    def close(self) -> None:
        self._runners.clear()

    def _prime(self, graph: str) -> Mapping[str, np.ndarray] | None:
        if graph != contract.VIT:
            return None
        patches = np.zeros((4, self._manifest.model.patch_width), np.float32)
        return {"patches": patches, "position_ids": np.arange(4, dtype=np.int64)}

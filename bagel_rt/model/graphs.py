"""The artefact's graphs as functions: opened when first used, called by contract names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from bagel_engines import Engine, Runner, Tensor, trim
from bagel_rt.artefact import contract
from bagel_rt.artefact.contract import GraphSpec, graph_specs, strip_specs
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.engine_errors import named_failures
from bagel_rt.errors import ArtefactError

BRIEF = (contract.VIT, contract.VAE_ENCODER, contract.VAE_DECODER)  # called once for a picture; the rest at every step


def specs_of(manifest: Manifest) -> dict[str, GraphSpec]:
    """Every graph an artefact may have that a request calls."""
    specs, widths = graph_specs(manifest.model, manifest.arithmetic), manifest.widths
    return specs if widths is None else specs | strip_specs(manifest.model, widths.vae)


class Graphs:
    """Callable graphs of one artefact on one engine. `calls` counts the engine calls by graph.

    low_memory: the VAE and the ViT are loaded for each use and given back after it.
    """

    def __init__(self, manifest: Manifest, engine: Engine, low_memory: bool = False):
        self._manifest, self._engine, self._low_memory = manifest, engine, low_memory
        self._lent: set[str] = set()
        self._specs = specs_of(manifest)
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
        if self._low_memory and graph in BRIEF and graph not in self._lent:
            with self.lent(graph):
                return self(graph, only, held, **inputs)
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

    @contextmanager
    def lent(self, graph: str) -> Iterator[None]:
        """For several calls of a graph that is given back after each otherwise: with low_memory at the end of these."""
        if not self._low_memory or graph not in BRIEF or graph in self._lent:
            yield
            return
        trim()  # what the step graphs' calls left, before the VAE needs its own
        self._lent.add(graph)
        try:
            yield
        finally:
            self._lent.discard(graph)
            self._give_back(graph)

    @contextmanager
    def one_at_a_time(self) -> Iterator[Callable[..., tuple[Any, ...]]]:
        """For calls of graphs one after the other: each is given back when the next is called, the last at the end."""
        current = ""

        def run(graph: str, **inputs: Any) -> tuple[Any, ...]:
            nonlocal current
            if graph != current:
                self._give_back(current)
                current = graph
            return self(graph, **inputs)

        trim()
        try:
            yield run
        finally:
            self._give_back(current)

    @property
    def low_memory(self) -> bool:
        return self._low_memory

    @property
    def opened(self) -> set[str]:
        """The graphs that are loaded now."""
        return set(self._runners)

    def _give_back(self, graph: str) -> None:
        self._runners.pop(graph, None)
        trim()

    def close(self) -> None:
        self._runners.clear()

    def _prime(self, graph: str) -> Mapping[str, np.ndarray] | None:
        if graph != contract.VIT:
            return None
        patches = np.zeros((4, self._manifest.model.patch_width), np.float32)
        return {"patches": patches, "position_ids": np.arange(4, dtype=np.int64)}

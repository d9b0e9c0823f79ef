"""The artefact's graphs as functions: loaded when first called, with the contract's names for inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines import Engine, LowRank, Runner, Tensor, kept_in_children, trim
from bagel_rt.adapters.switched import Adapters
from bagel_rt.artefact import contract
from bagel_rt.artefact.contract import GraphSpec, graph_specs, strip_specs
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.engine_errors import named_failures
from bagel_rt.errors import ArtefactError

# used once per picture, so low_memory unloads them after each use; the other graphs run at every step
BRIEF = (contract.VIT, contract.VAE_ENCODER, contract.VAE_DECODER)


def specs_of(manifest: Manifest) -> dict[str, GraphSpec]:
    """The contract of every graph that a request may call."""
    specs, widths = graph_specs(manifest.model, manifest.arithmetic), manifest.widths
    return specs if widths is None else specs | strip_specs(manifest.model, widths.vae)


class Graphs:
    """Callable graphs of one artefact on one engine. `calls` counts the engine calls by graph.

    low_memory: the VAE and the ViT are loaded for each use and given back after it.
    """

    def __init__(self, manifest: Manifest, engine: Engine, low_memory: bool = False, adapters: Adapters | None = None):
        self._manifest, self._engine, self._low_memory = manifest, engine, low_memory
        # float32 sums with zeros are the same to the bit; in fewer bits engines round where a sum ends
        self.adapters = replace(adapters or Adapters(), apart=engine.info.arithmetic != "float32")
        self._lent: set[str] = set()
        self._specs = specs_of(manifest)
        self._runners: dict[tuple[str, bool], Runner] = {}
        self.calls: dict[str, int] = {}

    @property
    def engine(self) -> Engine:
        return self._engine

    def __call__(
        self, graph: str, only: tuple[str, ...] | None = None, held: tuple[str, ...] = (), **inputs: Tensor
    ) -> tuple[Any, ...]:
        """Run a graph; returns its outputs in the contract's order, or those named in `only`, as numpy arrays.

        Outputs in `held` may stay on the engine's device: they can be inputs of its graphs and be written to its cache.
        """
        if self._low_memory and graph in BRIEF and graph not in self._lent:
            with self.lent(graph):
                return self(graph, only, held, **inputs)
        adapted = contract.ADAPTER_COLUMNS in inputs
        runner = self._runners.get((graph, adapted)) or self.open(graph, adapted)
        names = only or tuple(t.name for t in self._specs[graph].outputs)
        self.calls[graph] = self.calls.get(graph, 0) + 1
        with named_failures():
            out = runner.run(inputs, names, held)
        return tuple(out[name] for name in names)

    def hold(self, array: np.ndarray) -> Tensor:
        """The array as an input that is brought to the engine's device once."""
        with named_failures():
            return self._engine.hold(array)

    def open(self, graph: str, adapted: bool = False) -> Runner:
        """Load a graph, with the model's adapters or without, and check that its inputs and outputs are the
        contract's."""
        path, added = self._manifest.graph_file(graph), self.adapters.graphs[graph] if adapted else None
        with self._manifest.unchanged(), named_failures():
            runner = kept_in_children(self._load(path, graph, added))
        spec, more = self._specs[graph], {added.columns, added.scales} if added else set()
        found_in = tuple(name for name in runner.inputs if name not in more)
        for kind, found, stated in (("inputs", found_in, spec.inputs), ("outputs", runner.outputs, spec.outputs)):
            if set(found) != {t.name for t in stated}:
                names = ", ".join(t.name for t in stated)
                raise ArtefactError(f"{path}: its {kind} are {', '.join(found)}, the contract's {names}; export again")
        self._runners[graph, adapted] = runner
        return runner

    def _load(self, path: Path, graph: str, added: LowRank | None) -> Runner:
        prime = self._prime(graph)
        return self._engine.load(path, prime) if added is None else self._engine.load(path, prime, added)

    @contextmanager
    def lent(self, graph: str) -> Iterator[None]:
        """Within the block a graph stays loaded that low_memory would otherwise unload after each call."""
        if not self._low_memory or graph not in BRIEF or graph in self._lent:
            yield
            return
        trim()  # return what the step graphs' calls freed, before this graph takes memory
        self._lent.add(graph)
        try:
            yield
        finally:
            self._lent.discard(graph)
            self._give_back(graph)

    @contextmanager
    def one_at_a_time(self) -> Iterator[Callable[..., tuple[Any, ...]]]:
        """Within the block graphs are called through the function it yields, and only the last one called stays
        loaded."""
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
        """Names of the graphs that are loaded now."""
        return {graph for graph, _ in self._runners}

    def _give_back(self, graph: str) -> None:
        self._runners.pop((graph, False), None)
        trim()

    def close(self) -> None:
        """Give every graph back, and what the engine kept for later calls."""
        self._runners.clear()
        self._engine.release()
        trim()

    def _prime(self, graph: str) -> Mapping[str, np.ndarray] | None:
        """Inputs of four patches for the ViT's first call: OpenVINO's must not have one patch (openvino.engine)."""
        if graph != contract.VIT:
            return None
        patches = np.zeros((4, self._manifest.model.patch_width), np.float32)
        return {"patches": patches, "position_ids": np.arange(4, dtype=np.int64)}

"""Sums of results where they lie: with numpy on the host, by a graph of two operators on the engine's device."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bagel_engines.protocol import Engine, Runner, Tensor

GRAPHS = Path(__file__).parent.parent / "graphs"
PLUS, SLOPE = GRAPHS / "plus.onnx", GRAPHS / "slope.onnx"
SUM_GRAPHS = {"plus": ("base", "term"), "slope": ("after", "before")}  # and the inputs that are (rows, width)


class Sums:
    """Arithmetic on results of an engine, float32 (rows, width). Its graphs are loaded when first needed.

    Without an engine only arrays on the host are taken.
    """

    def __init__(self, engine: Engine | None = None):
        self._engine = engine
        self._runners: dict[Path, Runner] = {}

    def plus(self, base: Tensor, weight: np.float32, term: Tensor) -> Tensor:
        """base + weight * term."""
        if isinstance(base, np.ndarray) and isinstance(term, np.ndarray):
            return base + weight * term
        return self._held(PLUS, base=base, term=term, weight=np.array([weight], np.float32))

    def slope(self, after: Tensor, before: Tensor, distance: np.float32) -> Tensor:
        """(after - before) / distance."""
        if isinstance(after, np.ndarray) and isinstance(before, np.ndarray):
            return (after - before) / distance
        return self._held(SLOPE, after=after, before=before, distance=np.array([distance], np.float32))

    def _held(self, graph: Path, **inputs: Tensor) -> Tensor:
        if self._engine is None:
            raise ValueError("sums of results that an engine holds need that engine")
        runner = self._runners.get(graph)
        if runner is None:
            runner = self._runners[graph] = self._engine.load(graph)
        return runner.run(inputs, ("out",), ("out",))["out"]

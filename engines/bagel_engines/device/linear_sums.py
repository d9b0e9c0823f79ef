"""base + weight * term and (after - before) / distance on results of an engine, computed where the results lie.

Step caching forecasts with them. Arrays on the host are added by numpy; results on a device by two small ONNX graphs
(graphs/plus.onnx, graphs/slope.onnx) on the same engine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bagel_engines.protocol import Engine, Runner, Tensor

GRAPHS = Path(__file__).parent.parent / "graphs"
PLUS, SLOPE = GRAPHS / "plus.onnx", GRAPHS / "slope.onnx"
SUM_GRAPHS = {"plus": ("base", "term"), "slope": ("after", "before")}  # with their inputs of shape (rows, width)


class Sums:
    """Sums of an engine's results, float32 (rows, width). The graphs are loaded when first needed.

    engine: None computes with arrays on the host only.
    """

    def __init__(self, engine: Engine | None = None):
        self._engine = engine
        self._runners: dict[Path, Runner] = {}

    def plus(self, base: Tensor, weight: np.float32, term: Tensor) -> Tensor:
        """base + weight * term."""
        if isinstance(base, np.ndarray) and isinstance(term, np.ndarray):
            return base + weight * term
        return self._on_device(PLUS, base=base, term=term, weight=np.array([weight], np.float32))

    def slope(self, after: Tensor, before: Tensor, distance: np.float32) -> Tensor:
        """(after - before) / distance."""
        if isinstance(after, np.ndarray) and isinstance(before, np.ndarray):
            return (after - before) / distance
        return self._on_device(SLOPE, after=after, before=before, distance=np.array([distance], np.float32))

    def _on_device(self, graph: Path, **inputs: Tensor) -> Tensor:
        if self._engine is None:
            raise ValueError("sums of results that an engine holds need that engine")
        runner = self._runners.get(graph)
        if runner is None:
            runner = self._runners[graph] = self._engine.load(graph)
        return runner.run(inputs, ("out",), ("out",))["out"]

"""Which way to run an artefact is the fastest on this machine: its first layer is timed in each.

Random rows: time does not depend on them. The error of a way is the relative L2 distance of what the layer adds to its
rows from the same layer and weights in float32; real rows have outliers, and `bagel-rt verify` measures with those.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from bagel_engines import Engine, EngineFailure, Runner, Tensor
from bagel_engines.number_formats import narrowed
from bagel_rt.artefact.contract import LAYER, ModelDims, layer_spec
from bagel_rt.artefact.example_inputs import SIZES, cached, example_inputs
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.estimate.ways import Way

MOST_SECONDS = 20.0  # that a calibration may take
MOST_ERROR = 0.03  # of a way that may be chosen by itself
NEAR = 1.25  # ways that take so many times the fastest's time for 256 rows are not timed with 1024
# rows through a layer: a text token, and the latents of small and middling pictures
WORKS = {
    "token": {"und_rows": 1, "gen_rows": 0, "past": 500},
    "256": {"und_rows": 2, "gen_rows": 256, "past": 50},
    "1024": {"und_rows": 2, "gen_rows": 1024, "past": 50},
}
# what a way is judged by: a picture with a plan before it, or an answer about an image
DRAWING, ANSWERING = {"1024": 100, "token": 300}, {"1024": 2, "token": 100}


@dataclass(frozen=True)
class Measured:
    """One way: seconds a layer by WORKS, and the error against float32."""

    way: Way
    seconds: dict[str, float] = field(default_factory=dict)
    error: float = 0.0

    def score(self, task: str) -> float:
        """Seconds of a typical request, for one layer. Times that were not taken follow from those of fewer rows."""
        many = self.seconds.get("1024", 4 * self.seconds["256"])
        counts = DRAWING if task == "full" else ANSWERING
        return counts["1024"] * many + counts["token"] * self.seconds["token"]


def calibrate(manifest: Manifest, ways: Sequence[Way], threads: int | None = None) -> list[Measured]:
    """Time the ways in turn, fastest of a typical request first; what does not fit into MOST_SECONDS is left out.

    The artefact must have the graph LAYER. Raises EngineFailure where no way runs.
    """
    started, found, failed = time.monotonic(), list[Measured](), ""
    exact = _exact(manifest, ways, threads)
    for way in ways:
        spent = time.monotonic() - started
        if found and spent * (1 + 1 / len(found)) > MOST_SECONDS:  # as long as the others took
            break
        try:
            best = min((one.seconds["256"] for one in found), default=float("inf"))
            found.append(_measured(manifest, way, threads, exact, best * NEAR, MOST_SECONDS - spent))
        except EngineFailure as error:
            failed = str(error)
    if not found:
        raise EngineFailure(f"no way to run {manifest.folder} works here: {failed}")
    return sorted(found, key=lambda one: one.score(manifest.task))


def fastest(found: Sequence[Measured]) -> Measured:
    """The first whose error is within MOST_ERROR; of ways that all are worse, the nearest."""
    near = [one for one in found if one.error <= MOST_ERROR]
    return near[0] if near else min(found, key=lambda one: one.error)


def _measured(
    manifest: Manifest, way: Way, threads: int | None, exact: np.ndarray, near: float, left: float
) -> Measured:
    started = time.monotonic()
    layer = Layer(manifest, way.open(manifest, threads))
    error = layer.distance(exact)  # this call packs the weights, too
    seconds = {name: layer.seconds(name) for name in ("token", "256")}
    if seconds["256"] <= near and time.monotonic() - started + 5 * seconds["256"] < left:
        seconds["1024"] = layer.seconds("1024")
    return Measured(way, seconds, error)


def _exact(manifest: Manifest, ways: Sequence[Way], threads: int | None) -> np.ndarray:
    """What the layer gives in float32."""
    name = next((way.backend for way in ways if way.backend == "openvino"), ways[0].backend)
    arithmetic = None if name == "onnxruntime" and manifest.arithmetic == "float32" else "float32"
    return Layer(manifest, Way(name, arithmetic).open(manifest, threads)).small()


def operations(model: ModelDims, inner: int, rows: int, past: int) -> float:
    """Floating point operations of a layer for `rows` over a context: its products, and attention. inner: the width of
    its MLP."""
    heads = model.num_attention_heads * model.head_dim
    weights = model.hidden_size * (2 * heads + 2 * model.num_key_value_heads * model.head_dim + 3 * inner)
    return 2.0 * rows * weights + 4.0 * rows * (past + rows) * heads


class Layer:
    """An artefact's first decoder layer, loaded on an engine."""

    def __init__(self, manifest: Manifest, engine: Engine):
        self._engine, self._spec = engine, layer_spec(manifest.model, manifest.arithmetic)
        self._runner: Runner = engine.load(manifest.graph_file(LAYER))

    def small(self) -> np.ndarray:
        """The layer's rows for a few latents."""
        return self._run(self._inputs(SIZES))

    def distance(self, exact: np.ndarray) -> float:
        """Relative L2 of what the layer adds to a few latents, from what `exact` adds."""
        inputs = self._inputs(SIZES)
        rows = example_inputs(self._spec, 2)["gen"]
        return float(np.linalg.norm(self._run(inputs) - exact) / np.linalg.norm(exact - rows))

    def seconds(self, work: str) -> float:
        """The median of three runs, of one where that is long."""
        inputs, took = self._inputs(SIZES | WORKS[work]), list[float]()
        while len(took) < 3 and sum(took) < 0.5:
            started = time.perf_counter()
            self._run(inputs, WORKS[work]["gen_rows"] > 0)
            took.append(time.perf_counter() - started)
        return median(took)

    def _run(self, inputs: dict[str, Tensor], drawing: bool = True) -> np.ndarray:
        output = "gen_out" if drawing else "und_out"
        return self._runner.run(inputs, (output,))[output]

    def _inputs(self, sizes: dict[str, int]) -> dict[str, Tensor]:
        arrays = example_inputs(self._spec, 2, sizes={**sizes, "pool_slots": sizes["past"] + 1})
        inputs: dict[str, Tensor] = {t.name: narrowed(arrays[t.name], t.dtype) for t in self._spec.inputs}
        inputs["pool"] = cached(self._engine, np.asarray(inputs["pool"]), 2)
        return inputs

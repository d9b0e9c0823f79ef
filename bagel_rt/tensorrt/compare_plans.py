"""Checks that each built TensorRT plan computes what ONNX Runtime computes: builders have been seen to miscompile.

Every plan is run at sizes inside each of its profiles, on random inputs made from the contract. A plan that differs is
refused by the engine from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bagel_engines import Engine, EngineFailure, Runner, Settings, open_engine
from bagel_engines.number_formats import KEPT_AS, narrowed, widened
from bagel_rt.artefact.contract import GEN_STEP, UND_STEP, GraphSpec, graph_specs
from bagel_rt.artefact.example_inputs import example_inputs
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.engine_errors import named_failures
from bagel_rt.errors import EngineUnavailableError
from bagel_rt.model.graphs import Graphs
from bagel_rt.tensorrt.profiles import Limits, example_sizes
from bagel_rt.version import __version__

if TYPE_CHECKING:
    from bagel_engines.tensorrt.engine import TensorRtEngine

# largest relative L2 distance allowed between two engines that compute a graph in this arithmetic. Two right engines
# round 16-bit numbers differently; a wrong kernel is off by ten times these limits
TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class OutputFinding:
    """The comparison of one output at the size where it was worst. Measures are None for numbers that are not finite,
    or another shape."""

    output: str
    max_abs: float | None
    relative_l2: float | None
    tolerance: float
    passed: bool
    at: dict[str, int]  # that size


@dataclass(frozen=True)
class PlanFinding:
    """A plan's comparison, as it is kept beside the plan."""

    graph: str
    plan: Path
    passed: bool
    reference: str
    engine: str
    bagel_rt: str
    date: str
    outputs: tuple[OutputFinding, ...]

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "plan": self.plan.name}


def reference_for(manifest: Manifest) -> Graphs:
    """The artefact on ONNX Runtime, on the CPU; on OpenVINO in bfloat16, which ONNX Runtime has no kernels for there.

    Raises EngineUnavailableError when that engine is not installed.
    """
    backend = "openvino" if manifest.arithmetic == "bfloat16" else "onnxruntime"
    try:
        return Graphs(manifest, open_engine(backend, settings=Settings(stated=manifest.arithmetic)))
    except EngineFailure as error:
        raise EngineUnavailableError(f"plans are compared with {backend}: {error}") from error


def check_plans(manifest: Manifest, engine: TensorRtEngine, limits: Limits) -> Iterator[PlanFinding]:
    """Compare every graph's plan, built where there is none, with the reference, and keep the finding beside it.

    limits: those that the plans are built for. One graph is in memory at a time, on either side.
    """
    for graph in manifest.graphs:
        reference = reference_for(manifest)  # a new one for each graph, so that the last one's memory is freed
        with named_failures():
            runner = engine.load_unproven(manifest.graph_file(graph))
            outputs = tuple(_compared(manifest, graph, engine, runner, reference, limits))
            passed = all(found.passed for found in outputs)
            names, now = (str(reference.engine.info), str(engine.info)), datetime.now(UTC).isoformat(timespec="seconds")
            plan = engine.plan_of(manifest.graph_file(graph))
            finding = PlanFinding(graph, plan, passed, *names, __version__, now, outputs)
            engine.keep_comparison(manifest.graph_file(graph), finding.facts())
        yield finding


def _compared(
    manifest: Manifest, graph: str, engine: Engine, runner: Runner, reference: Graphs, limits: Limits
) -> Iterator[OutputFinding]:
    """A finding per output: the worst over the sizes of every profile."""
    spec = graph_specs(manifest.model, manifest.arithmetic)[graph]
    tolerance, worst = TOLERANCES[manifest.arithmetic], {}
    for sizes in example_sizes(graph, manifest.model, limits):
        given, exact = _inputs(manifest, spec, sizes, engine), _inputs(manifest, spec, sizes, reference.engine)
        got = runner.run(given, [t.name for t in spec.outputs])
        for name, wanted in _reference(spec, exact, reference, sizes).items():
            dtype = next(t.dtype for t in spec.outputs if t.name == name)
            found = _finding(name, _values(got[name], dtype), _values(wanted, dtype), tolerance, sizes)
            if name not in worst or _rank(found) > _rank(worst[name]):
                worst[name] = found
    yield from worst.values()


def _inputs(manifest: Manifest, spec: GraphSpec, sizes: dict[str, int], engine: Engine) -> dict[str, Any]:
    """Example inputs; the pool is the engine's own cache, as large as plans expect and written where it is read."""
    slots, halves = max(1, sizes.get("past", 0)), 2 * manifest.model.num_hidden_layers
    arrays: dict[str, Any] = example_inputs(spec, halves, sizes={**sizes, "pool_slots": slots})
    if "pool" in arrays:
        rows = narrowed(arrays["pool"], manifest.arithmetic)
        cache = engine.cache(halves, sizes["pool_slots"], rows.shape[1:], KEPT_AS[manifest.arithmetic])
        places = np.random.default_rng(1).permutation(sizes["pool_slots"])[:slots]
        cache.write(places, rows.reshape(halves, slots, *rows.shape[1:]))
        arrays |= {"pool": cache.tensor, "slots": places[arrays["slots"]].astype(np.int64)}
    return arrays


def _reference(spec: GraphSpec, inputs: dict[str, Any], reference: Graphs, sizes: dict[str, int]) -> dict[str, Any]:
    """What the reference computes, by output. Without latents it may have to run through the understanding graph."""
    graph, names = spec.name, tuple(t.name for t in spec.outputs)
    if graph == GEN_STEP and sizes["gen_rows"] == 0 and not reference.engine.takes_zero_rows:
        graph, names = UND_STEP, tuple(name for name in names if name != "gen_out")
        inputs = {name: array for name, array in inputs.items() if not name.startswith("gen")}
    return dict(zip(names, reference(graph, names, **inputs), strict=True))


def _values(array: np.ndarray, dtype: str) -> np.ndarray:
    return widened(array, dtype) if dtype in KEPT_AS else array


def _finding(name: str, got: np.ndarray, wanted: np.ndarray, tolerance: float, sizes: dict[str, int]) -> OutputFinding:
    if got.shape != wanted.shape or not np.isfinite(got).all():
        return OutputFinding(name, None, None, tolerance, False, sizes)
    apart = got.astype(np.float64) - wanted
    relative = float(np.linalg.norm(apart) / max(float(np.linalg.norm(wanted)), 1e-12))
    most = float(np.abs(apart).max()) if apart.size else 0.0
    return OutputFinding(name, most, relative, tolerance, relative <= tolerance, sizes)


def _rank(found: OutputFinding) -> float:
    return np.inf if found.relative_l2 is None else found.relative_l2

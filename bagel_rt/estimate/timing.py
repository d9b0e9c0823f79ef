"""How long a workload's calls take on this machine: one layer and small pictures are timed, and multiplied."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

from bagel_engines import Engine, Runner, Tensor
from bagel_engines.number_formats import narrowed
from bagel_rt.artefact.contract import (
    GEN_STEP,
    LAYER,
    UND_STEP,
    VAE_DECODER,
    VAE_ENCODER,
    VIT,
    GraphSpec,
    graph_specs,
    layer_spec,
)
from bagel_rt.artefact.example_inputs import SIZES, cached, example_inputs
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.engine_errors import named_failures
from bagel_rt.estimate.counting_engine import Call

# these graphs are timed at no more than this size (of one or two symbols), and the time is scaled with the size
MOST = {
    VAE_DECODER: ("latent_height", "latent_width", 32),
    VAE_ENCODER: ("height", "width", 256),
    VIT: ("patches", "", 1024),
}
SHORT = 0.3  # seconds; shorter calls are timed three times


@dataclass(frozen=True)
class Timed:
    """Seconds of some calls, and how many of all measurements are done."""

    seconds: Mapping[Call, float]
    done: int
    total: int


class Stopwatch:
    """Times the calls of an artefact on an engine. Step graphs are timed by the artefact's `layer` where it has one."""

    def __init__(self, manifest: Manifest, engine: Engine):
        self._manifest, self._engine = manifest, engine
        self._specs = graph_specs(manifest.model, manifest.arithmetic)
        self._layer = manifest.has(LAYER)
        self._runners: dict[str, Runner] = {}

    def measure(self, calls: Iterable[Call]) -> Iterator[Timed]:
        """Times groups of calls that differ only in the context's length, and yields after each group.

        Only the shortest and the longest context are timed; the rest is interpolated.
        """
        groups = _alike(calls)
        for done, group in enumerate(groups, start=1):
            with named_failures():
                shortest = self._time(group[0])
                longest = self._time(group[-1]) if len(group) > 1 else shortest
            yield Timed({call: _between(call, group, shortest, longest) for call in group}, done, len(groups))
            if done < len(groups) and groups[done][0].graph != group[0].graph:
                self._runners.clear()

    def _time(self, call: Call) -> float:
        if call.graph in (GEN_STEP, UND_STEP):
            return self._step(call)
        sizes, share = _reduced(call)
        return self._run(self._specs[call.graph], sizes, 2 * self._manifest.model.num_hidden_layers) * share

    def _step(self, call: Call) -> float:
        model, sizes = self._manifest.model, dict(call.sizes)
        if not self._layer:
            return self._run(self._specs[call.graph], sizes, 2 * model.num_hidden_layers)
        spec = layer_spec(model, self._manifest.arithmetic)
        if call.graph == GEN_STEP:
            return self._run(spec, sizes, 2) * model.num_hidden_layers
        # this engine takes no zero rows, so LAYER is run with one latent row; half of a run of one row each is taken
        # off
        both, one = self._run(spec, {**sizes, "gen_rows": 1}, 2), self._run(spec, {"und_rows": 1, "gen_rows": 1}, 2)
        return max(both - one / 2, both / 2) * model.num_hidden_layers

    def _run(self, spec: GraphSpec, sizes: Mapping[str, int], halves: int) -> float:
        runner = self._runners.get(spec.name) or self._load(spec.name)
        known = {**SIZES, "past": 0, **sizes}
        arrays = example_inputs(spec, halves, sizes={**known, "pool_slots": known["past"] + 1})
        inputs: dict[str, Tensor] = {t.name: narrowed(arrays[t.name], t.dtype) for t in spec.inputs}
        if "pool" in inputs:
            inputs["pool"] = cached(self._engine, np.asarray(inputs["pool"]), halves)
        outputs = ("gen_out",) if sizes.get("gen_rows", 0) > 1 and spec.name in (GEN_STEP, LAYER) else runner.outputs
        took = [_seconds(runner, inputs, outputs) for _ in range(2)][1:]  # the first call also packs the weights
        if took[0] < SHORT:
            took += [_seconds(runner, inputs, outputs) for _ in range(2)]
        return median(took)

    def _load(self, graph: str) -> Runner:
        self._runners[graph] = runner = self._engine.load(self._manifest.graph_file(graph))
        return runner


def _seconds(runner: Runner, inputs, outputs) -> float:
    start = time.perf_counter()
    runner.run(inputs, outputs)
    return time.perf_counter() - start


def _alike(calls: Iterable[Call]) -> list[list[Call]]:
    """Calls that differ in the context's length alone, shortest first; graph by graph."""
    groups: dict[tuple, list[Call]] = defaultdict(list)
    for call in calls:
        groups[call.graph, tuple(item for item in call.sizes if item[0] != "past")].append(call)
    return [sorted(group, key=lambda call: call["past"]) for _, group in sorted(groups.items())]


def _between(call: Call, group: list[Call], shortest: float, longest: float) -> float:
    """The time of a call, interpolated between those of its group's shortest and longest context."""
    low, high = group[0]["past"], group[-1]["past"]
    if low == high:
        return shortest
    return shortest + (longest - shortest) * (call["past"] - low) / (high - low)


def _reduced(call: Call) -> tuple[dict[str, int], float]:
    """The sizes to time a call at, and how many times as much work the call itself is."""
    sizes, share = dict(call.sizes), 1.0
    if call.graph in MOST:
        *names, most = MOST[call.graph]
        for name in filter(None, names):
            share *= max(1.0, sizes[name] / most)
            sizes[name] = min(sizes[name], most)
    return sizes, share

"""CUDA graphs for runs that are repeated with the same shapes, such as denoising steps: recorded once, then replayed.

A caller marks such runs: `with repeating(engine)`. The first run of a kind is an ordinary one, from which the shapes of
the results are learned; the second is recorded; later ones are replayed. A recording has input and output arrays of its
own: inputs are copied in before it is replayed and results are copied out, so a caller owns the results it gets and may
give arrays at any address. Only `lasting` arrays (the cache) are read in place; their addresses are part of the
recording's key.

A graph that cannot be recorded is always run in the ordinary way, and the engine's info says why. ONNX Runtime's runs
are recorded so; TensorRT's are found by their addresses (tensorrt/recordings.py). Tried over a stand-in; not executed
on a GPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bagel_engines.device.arrays import DeviceArray, Memory
from bagel_engines.device.marked_runs import MarkedRuns
from bagel_engines.protocol import Engine, EngineFailure

KEPT = 8  # recordings at most; each holds its inputs and results on the device
REMEMBERED = 64  # kinds of runs at most that were seen and not recorded yet


@runtime_checkable
class RepeatsRuns(Protocol):
    """An engine that can record runs that are marked as repeated."""

    def repeating(self) -> AbstractContextManager[None]: ...


def repeating(engine: Engine) -> AbstractContextManager[None]:
    """Mark the runs inside the `with` block as ones that will come again, many times, with inputs of the same
    shapes."""
    return engine.repeating() if isinstance(engine, RepeatsRuns) else nullcontext()


@dataclass
class Recording:
    """A recorded run. inputs: its own arrays, which the caller's are copied into before `play`; outputs: its
    results."""

    inputs: Mapping[str, DeviceArray]
    outputs: Mapping[str, DeviceArray]
    play: Callable[[], None]
    drop: Callable[[], None] = lambda: None  # frees what the engine keeps for the recording


Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype]]


class Repeats(MarkedRuns):
    """All recordings of one engine, at most `kept`; the one that was not used for longest is dropped first."""

    def __init__(self, memory: Memory, tell: Callable[[str], None], kept: int = KEPT):
        super().__init__(tell)
        self._memory, self._kept = memory, kept
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._seen: OrderedDict[Hashable, Shapes] = OrderedDict()

    def run(
        self,
        graph: str,
        outputs: tuple[str, ...],
        given: Mapping[str, Any],
        plain: Callable[[], Mapping[str, Any]],
        record: Callable[[Mapping[str, DeviceArray], Shapes], Recording],
    ) -> Mapping[str, Any]:
        """Run a graph inside `marked`, and return the outputs as arrays that belong to the caller.

        given: inputs with shape, dtype and address. plain: runs the graph in the ordinary way. record: makes a
        Recording that reads the arrays it is given and writes results of these shapes; raises EngineFailure where it
        cannot.
        """
        fixed = {n for n, tensor in given.items() if getattr(tensor, "lasting", False)}
        shapes = tuple((n, tuple(t.shape), t.address if n in fixed else 0) for n, t in sorted(given.items()))
        key = (graph, outputs, shapes)
        if key not in self._recordings:
            if key not in self._seen:
                results = plain()
                self._remember(key, {n: (tuple(r.shape), r.dtype) for n, r in results.items()})
                return results
            if not self._recorded(graph, key, {n: t for n, t in given.items() if n not in fixed}, record):
                return plain()
        self._recordings.move_to_end(key)
        return self._played(self._recordings[key], given)

    def close(self) -> None:
        """Drop every recording."""
        while self._recordings:
            self._recordings.popitem()[1].drop()

    def _recorded(self, graph: str, key: Hashable, moving: Mapping[str, Any], record: Callable) -> bool:
        try:
            inputs = {n: DeviceArray(self._memory, tuple(t.shape), t.dtype) for n, t in moving.items()}
            self._copy([(inputs[n], t) for n, t in moving.items()])
            recording = record(inputs, self._seen[key])
        except EngineFailure as error:
            self.refuse(graph, str(error))
            return False
        while len(self._recordings) >= self._kept:
            self._recordings.popitem(last=False)[1].drop()
        self._recordings[key] = recording
        return True

    def _played(self, recording: Recording, given: Mapping[str, Any]) -> Mapping[str, Any]:
        self._copy([(array, given[n]) for n, array in recording.inputs.items()])
        recording.play()
        results = {n: DeviceArray(self._memory, a.shape, a.dtype) for n, a in recording.outputs.items()}
        self._copy([(results[n], a) for n, a in recording.outputs.items()])
        return results

    def _copy(self, pairs: list[tuple[DeviceArray, Any]]) -> None:
        """Copy each second array into the first of its pair, within the device."""
        self._memory.copy([(to.address, array.address, to.nbytes) for to, array in pairs if to.nbytes])

    def _remember(self, key: Hashable, shapes: Shapes) -> None:
        self._seen[key] = shapes
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

"""CUDA graphs of a plan's runs, for runs that come again with every array where it lay: denoising steps do.

An engine's memory hands out the same places again, so the arrays of a step lie where those of the step before lay, and
a recording can read and write the caller's own: nothing is copied. A run is found again by its graph, the shapes and
all addresses. When it comes for the second time it gets an execution context of its own, in which it runs in the
ordinary way until TensorRT has finished what new shapes put off; then it is captured, and played from then on. Arrays
that come to lie elsewhere make another run, which begins anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Hashable

from bagel_engines.device.arrays import Replay, Stream
from bagel_engines.device.marked_runs import MarkedRuns
from bagel_engines.protocol import EngineFailure
from bagel_engines.tensorrt.bindings import Bindings

KEPT = 16  # recordings at most; each has an execution context
REMEMBERED = 256  # runs at most that were seen once
SETTLING = 2  # ordinary runs of a context before it is captured
WORTH = 4  # times a recording should have been played when it is dropped
WASTED = 8  # recordings of a graph that were dropped before that, and no more of it are made


class Repeated:
    """One run that comes again: ordinary at first, then captured and played."""

    def __init__(self, bindings: Bindings, stream: Stream, graph: str, give_back: Callable[[], None] = lambda: None):
        """give_back: called when nothing is captured of the bindings' context any more."""
        self._bindings, self._stream, self._graph, self._give_back = bindings, stream, graph, give_back
        self._replay: Replay | None = None
        self.runs = 0

    def __call__(self) -> None:
        """Put the run into the stream. Raises EngineFailure where it cannot be captured."""
        self.runs += 1
        if self.runs <= SETTLING:
            self._bindings.run()
            return
        if self._replay is None:
            self._replay = self._captured()
        self._replay()

    def _captured(self) -> Replay:
        if not self._bindings.capturable():
            raise EngineFailure(f"graph '{self._graph}' cannot be captured, says TensorRT-RTX")
        return self._stream.capture(self._bindings.run)

    @property
    def played(self) -> int:
        return max(0, self.runs - SETTLING)

    def close(self) -> None:
        if self._replay is not None:
            self._replay.close()
        self._give_back()


class Recordings(MarkedRuns):
    """Those of one engine; the one that was not used for longest is dropped first.

    left_out: graphs so small that a launch of a recording is no less than a run.
    """

    def __init__(self, tell: Callable[[str], None], left_out: Container[str] = (), kept: int = KEPT):
        super().__init__(tell)
        self._left_out, self._kept = left_out, kept
        self._found: OrderedDict[tuple[str, Hashable], Repeated] = OrderedDict()
        self._seen: OrderedDict[tuple[str, Hashable], None] = OrderedDict()
        self._wasted: dict[str, int] = {}

    def active(self, graph: str) -> bool:
        """And whether a recording of it is worth its launch."""
        return super().active(graph) and graph not in self._left_out

    def run(self, graph: str, run: Hashable, plain: Callable[[], None], make: Callable[[], Repeated]) -> None:
        """Do a run inside `marked`. run: its shapes and addresses. plain: does it in the ordinary way; make: what to
        do from its second time on."""
        key = (graph, run)
        if key not in self._found and not self._came_before(key):
            plain()
            return
        while key not in self._found and len(self._found) >= self._kept:
            self._drop_oldest()
        if graph in self._refused:  # it was dropped once too often
            plain()
            return
        try:
            self._at(key, make)()
        except EngineFailure as error:
            self.refuse(graph, str(error))
            plain()

    def close(self) -> None:
        """Drop every recording."""
        while self._found:
            self._found.popitem()[1].close()

    def _came_before(self, key: tuple[str, Hashable]) -> bool:
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return False

    def _at(self, key: tuple[str, Hashable], make: Callable[[], Repeated]) -> Repeated:
        if key not in self._found:
            self._found[key] = make()
        self._found.move_to_end(key)
        return self._found[key]

    def _drop_oldest(self) -> None:
        (graph, _), dropped = self._found.popitem(last=False)
        dropped.close()
        self._wasted[graph] = self._wasted.get(graph, 0) + (dropped.played < WORTH)
        if self._wasted[graph] > WASTED:
            self.refuse(graph, "its arrays lie in other places each time")

    def refuse(self, graph: str, why: str) -> None:
        """And drop the recordings it has."""
        super().refuse(graph, why)
        for key in [key for key in self._found if key[0] == graph]:
            self._found.pop(key).close()

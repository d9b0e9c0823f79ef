"""What a request will do, before anything is loaded: the real request, run on an engine that only counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bagel_rt.graphs import Graphs
from bagel_rt.manifest import Manifest
from bagel_rt.options import ImageOptions, TextOptions
from bagel_rt.tally import Call, Tally


@dataclass(frozen=True)
class Workload:
    """calls: how often each graph is called at which sizes; tokens: of context in the page pool; held: bytes of results
    that wait for later steps (step caching)."""

    calls: Mapping[Call, int]
    tokens: int
    held: int

    def of(self, graph: str) -> dict[Call, int]:
        """The calls of one graph."""
        return {call: times for call, times in self.calls.items() if call.graph == graph}

    @property
    def graphs(self) -> tuple[str, ...]:
        """The graphs that are called, in the order of their first call."""
        return tuple(dict.fromkeys(call.graph for call in self.calls))


def workload(
    manifest: Manifest, items: Sequence[Any], opts: ImageOptions | TextOptions, takes_zero_rows: bool, room: int
) -> Workload:
    """Of one call for `items` (texts, opened images): pictures for ImageOptions, else an answer.

    A text that the model writes counts as long as the options allow. room: tokens of the page pool. Raises InputError
    or CacheFullError as the request itself would.
    """
    from bagel_rt.calls import Calls
    from bagel_rt.turns import Turns

    tally = Tally(manifest.model, manifest.arithmetic, takes_zero_rows)
    calls = Calls(Turns(manifest, Graphs(manifest, tally), room))
    picture = isinstance(opts, ImageOptions)
    running = calls.draw(list(items), opts, [0]) if picture else calls.answer(list(items), opts, 0)
    for _ in running:
        pass
    return Workload(dict(tally.calls), tally.tokens, tally.held)

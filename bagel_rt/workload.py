"""What a request will do, before anything is loaded: the real request, run on an engine that only counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bagel_rt.contract import VAE_ENCODER
from bagel_rt.graphs import Graphs
from bagel_rt.manifest import Manifest
from bagel_rt.options import ImageOptions, TextOptions
from bagel_rt.segments import Latents
from bagel_rt.streaming import Gate
from bagel_rt.tally import Call, Tally

if TYPE_CHECKING:
    from bagel_rt.marks import Mark
    from bagel_rt.session import Session


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


def turn_workload(mark: Mark, turn: Callable[[Session], object], takes_zero_rows: bool, room: int) -> Workload:
    """Of a session's next turn, and of all that was read before it: what that took is still held.

    turn: takes it, on a session like the one that stands at `mark`.
    """
    from bagel_rt.session import Session
    from bagel_rt.turns import Turns

    manifest = mark.turns.manifest
    tally = Tally(manifest.model, manifest.arithmetic, takes_zero_rows)
    turns = Turns(manifest, Graphs(manifest, tally), room)
    for segment in mark.reading.histories.cond:
        if isinstance(segment, Latents):  # of an image that was encoded when it was shown
            high, wide = (manifest.model.latent_stride * cells for cells in segment.grid)
            turns.graphs(VAE_ENCODER, pixels=np.broadcast_to(np.float32(0), (1, 3, high, wide)))
    with Session(Gate(), replace(mark, turns=turns)) as alike:
        turn(alike)
    return Workload(dict(tally.calls), tally.tokens, tally.held)

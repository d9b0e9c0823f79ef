"""Which graphs a request will call, how often and at which sizes: the request is run on the counting engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bagel_rt.artefact.manifest import Manifest
from bagel_rt.estimate.counting_engine import Call, CountingEngine
from bagel_rt.model.graphs import Graphs

if TYPE_CHECKING:
    from bagel_rt.generation.turns import Rehearsal
    from bagel_rt.model.vocabulary import Vocabulary


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
    manifest: Manifest,
    rehearse: Rehearsal,
    opts: Any,
    takes_zero_rows: bool,
    room: int,
    vocabulary: Vocabulary | None = None,
) -> Workload:
    """Run a request on the counting engine and return what it called.

    A text that the model would write is counted at the greatest length that the options allow, and as if every guess of
    prompt lookup were wrong. room: tokens of the page
    pool. vocabulary: that of an open model. Raises InputError or CacheFullError as the request itself would.
    """
    from bagel_rt.generation.turns import Turns

    counting = CountingEngine(manifest.model, manifest.arithmetic, takes_zero_rows)
    if opts is not None:
        opts = replace(opts, prompt_lookup=0)  # the zeros of an engine that only counts would make every guess right
    rehearse(Turns(manifest, Graphs(manifest, counting), room, vocabulary), opts)
    return Workload(dict(counting.calls), counting.tokens, counting.held)

"""Contexts in the page pool: a tree of segments, so that what two contexts share is computed and stored once."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType

from bagel_rt.errors import InputError
from bagel_rt.pages import Sequence
from bagel_rt.pool import PagePool
from bagel_rt.prefill import Prefill
from bagel_rt.segments import History, Latents, Segment


@dataclass(eq=False)
class Context:
    """Tokens in the pool, and the next position id. Equal histories give the same object."""

    sequence: Sequence
    position: int = 0
    children: dict[Segment, Context] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return self.sequence.length


class ContextTree:
    """The contexts of one call. Leaving the `with` block gives every page back, also after an error."""

    def __init__(self, pool: PagePool, prefill: Prefill, max_positions: int):
        self.pool, self._prefill, self._max_positions = pool, prefill, max_positions
        self._opened: list[Context] = []
        self._root = Context(pool.table.new())
        self._opened.append(self._root)

    def __enter__(self) -> ContextTree:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for context in self._opened:
            self.pool.table.release(context.sequence)
        self._opened.clear()

    def open(self, history: History) -> Context:
        """The context with this history; only segments not seen behind the same beginning are computed."""
        context = self._root
        for segment in history:
            context = context.children.get(segment) or self._extend(context, segment)
        return context

    def branch(self, context: Context) -> Context:
        """A private continuation of a context (for decoding text), not found by `open`."""
        twin = Context(self.pool.table.fork(context.sequence), context.position)
        self._opened.append(twin)
        return twin

    def check_position(self, position: int) -> None:
        """Raise InputError when a token at this position id is beyond what the model was made for."""
        if position >= self._max_positions:
            raise InputError(
                f"the context needs position {position}, max_position_embeddings is {self._max_positions}: shorten the"
                " text or ask for fewer tokens"
            )

    def _extend(self, context: Context, segment: Segment) -> Context:
        self.check_position(context.position + segment.positions - 1)
        new_kv = self._prefill.run(segment, self.pool, context.sequence, context.position)
        child = self.branch(context)
        self.pool.append(child.sequence, new_kv, segment.order if isinstance(segment, Latents) else None)
        child.position += segment.positions
        context.children[segment] = child
        return child

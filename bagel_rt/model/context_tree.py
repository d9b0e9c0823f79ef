"""Contexts in the page pool: a tree of segments, so that what two contexts share is computed and stored once.

The tree lasts as long as the model; what is in it lasts as long as somebody holds it. Calls and sessions hold contexts
through a `Lease`: the page table's reference counts, one level up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType

from bagel_rt.errors import InputError
from bagel_rt.inputs.segments import History, Latents, Segment
from bagel_rt.kv_cache.page_pool import PagePool
from bagel_rt.kv_cache.page_table import Sequence
from bagel_rt.model.prefill import Prefill


@dataclass(eq=False)
class Context:
    """Tokens in the pool, and the next position id. While it is held, equal histories give the same object."""

    sequence: Sequence
    position: int = 0
    parent: Context | None = None  # None: the root, or a private continuation
    segment: Segment | None = None  # what it adds to its parent
    children: dict[Segment, Context] = field(default_factory=dict)
    leases: int = 0

    @property
    def length(self) -> int:
        return self.sequence.length


class ContextTree:
    """All contexts of a model. Contexts that no lease holds are given back at once."""

    def __init__(self, pool: PagePool, prefill: Prefill, max_positions: int):
        self.pool, self._prefill, self._max_positions = pool, prefill, max_positions
        self.root = Context(pool.table.new())  # holds no page

    def lease(self) -> Lease:
        return Lease(self)

    def check_position(self, position: int) -> None:
        """Raise InputError when a token at this position id is beyond what the model was made for."""
        if position >= self._max_positions:
            raise InputError(
                f"the context needs position {position}, max_position_embeddings is {self._max_positions}: shorten the"
                " text or ask for fewer tokens"
            )

    def child(self, context: Context, segment: Segment) -> Context:
        """The context one segment further on, computed unless it is there. The caller leases it."""
        if (known := context.children.get(segment)) is not None:
            return known
        self.check_position(context.position + segment.positions - 1)
        child = Context(self._extended(context, segment), context.position + segment.positions, context, segment)
        context.children[segment] = child
        return child

    def free(self, context: Context) -> None:
        """Give an unleased context's pages back."""
        self.pool.table.release(context.sequence)
        if context.parent is not None and context.segment is not None:
            del context.parent.children[context.segment]

    def _extended(self, context: Context, segment: Segment) -> Sequence:
        if not segment.tokens:
            return self.pool.table.fork(context.sequence)
        new_kv = self._prefill.run(segment, self.pool, context.sequence, context.position)
        sequence = self.pool.table.fork(context.sequence)
        try:
            self.pool.append(sequence, new_kv, segment.order if isinstance(segment, Latents) else None)
        except BaseException:
            self.pool.table.release(sequence)
            raise
        return sequence


class Lease:
    """The contexts that a call or a session uses. Leaving the `with` block, or close(), gives them back.

    A lease holds whole paths from the root, so a context's parent is held as long as the context is.
    """

    def __init__(self, tree: ContextTree):
        self._tree = tree
        self._held: dict[Context, None] = {}  # in the order of taking, parents first

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pool(self) -> PagePool:
        return self._tree.pool

    def check_position(self, position: int) -> None:
        """As ContextTree.check_position."""
        self._tree.check_position(position)

    def open(self, history: History) -> Context:
        """The context with this history; only segments not seen behind the same beginning are computed."""
        context = self._tree.root
        for segment in history:
            context = self._take(self._tree.child(context, segment))
        return context

    def keep(self, history: History) -> None:
        """Hold what the tree has of this history, and compute nothing."""
        context: Context | None = self._tree.root
        for segment in history:
            context = context.children.get(segment)
            if context is None:
                return
            self._take(context)

    def branch(self, context: Context) -> Context:
        """A private continuation of a context (for decoding text), not found by `open`."""
        return self._take(Context(self._tree.pool.table.fork(context.sequence), context.position))

    def close(self) -> None:
        """Give back every context that no other lease holds. Closing twice is harmless."""
        held, self._held = self._held, {}
        for context in reversed(held):
            context.leases -= 1
            if not context.leases:
                self._tree.free(context)

    def _take(self, context: Context) -> Context:
        if context not in self._held:
            self._held[context] = None
            context.leases += 1
        return context

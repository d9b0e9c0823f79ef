"""The prefix tree of cached contexts: what two contexts have in common is computed and stored once.

Each node is a context, one segment longer than its parent, with its keys and values in the page pool. Calls and
sessions use contexts through a `Lease`, which counts its users; a context that no lease holds is freed at once. There
is one tree for each loaded model.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from types import TracebackType
from weakref import WeakValueDictionary

from bagel_rt.adapters.choice import PLAIN, Choice
from bagel_rt.asks import Evaluator, TextRows
from bagel_rt.errors import InputError
from bagel_rt.inputs.segments import History, Latents, Segment, Text
from bagel_rt.kv_cache.page_pool import PagePool
from bagel_rt.kv_cache.page_table import Sequence
from bagel_rt.model.prefill import Prefill


@dataclass(eq=False)
class Context:
    """A cached context: its tokens in the pool, and the position id of the next one.

    As long as a lease holds it, the tree gives this same object for every equal history.
    """

    sequence: Sequence
    position: int = 0
    parent: Context | None = None  # None: the root, or made by Lease.branch
    segment: Segment | None = None  # what it adds to its parent, where the tree gives it to others
    children: dict[Segment, Context] = field(default_factory=dict)
    leases: int = 0  # how many leases hold it
    adapter: Choice = PLAIN  # what its keys and values are computed with

    @property
    def length(self) -> int:
        return self.sequence.length

    def followed(self, sequence: Sequence, segment: Segment) -> Context:
        """The context that is one segment longer, whose tokens are in `sequence`."""
        return Context(sequence, self.position + segment.positions, self, adapter=self.adapter)


class ContextTree:
    """All cached contexts of a model, from the empty one (`root`) on."""

    def __init__(self, pool: PagePool, prefill: Prefill, evaluator: Evaluator, max_positions: int):
        self.pool, self._prefill, self._evaluator, self._max_positions = pool, prefill, evaluator, max_positions
        self.root = Context(pool.table.new())  # holds no page
        self._roots: WeakValueDictionary[Choice, Context] = WeakValueDictionary({PLAIN: self.root})

    def lease(self, adapter: Choice = PLAIN) -> Lease:
        """A lease of contexts computed with these adapters; with others, equal histories are other contexts."""
        return Lease(self, self._root(adapter))

    def _root(self, adapter: Choice) -> Context:
        """The empty context of a choice, there as long as a lease or another context holds it."""
        if (known := self._roots.get(adapter)) is None:
            known = self._roots[adapter] = Context(self.root.sequence, adapter=adapter)
        return known

    def check_position(self, position: int) -> None:
        """Raise InputError when a token at this position id is beyond what the model was made for."""
        if position >= self._max_positions:
            raise InputError(
                f"the context needs position {position}, max_position_embeddings is {self._max_positions}: shorten the"
                " text or ask for fewer tokens"
            )

    def room(self, context: Context) -> int:
        """How many tokens of text the cache and the model's positions would take behind a context now."""
        return min(self.pool.table.room(context.sequence), self._max_positions - context.position)

    def child(self, context: Context, segment: Segment) -> Context:
        """The context that is one segment longer, computed unless it is cached. The caller must add it to its lease."""
        if (known := context.children.get(segment)) is not None:
            return known
        self.check_position(context.position + segment.positions - 1)
        child = context.followed(self._extended(context, segment), segment)
        child.segment = segment
        context.children[segment] = child
        return child

    def read(self, context: Context, text: Text) -> Generator[TextRows, None, Context]:
        """As `child`, asking for the text's evaluation, which may be in one call with others' rows.

        Such keys and values differ in their last bits from those of a call of their own. So they are not given to
        others: a picture is the same to the bit whatever runs beside it.
        """
        if (known := context.children.get(text)) is not None:
            return known
        self.check_position(context.position + text.positions - 1)
        sequence = self.pool.table.fork(context.sequence)
        ask = self._ask(text, context, sequence)
        try:
            yield ask
        except BaseException:
            self.pool.table.release(sequence)
            raise
        child = context.followed(sequence, text)
        if not ask.merged and text not in context.children:
            child.segment = text
            context.children[text] = child
        return child

    def free(self, context: Context) -> None:
        """Free the pages of a context that no lease holds, and forget it."""
        self.pool.table.release(context.sequence)
        if context.parent is not None and context.segment is not None:
            context.parent.children.pop(context.segment, None)

    def clear(self) -> None:
        """Forget every context, held or not; leases can still be closed."""
        for root in list(self._roots.values()):
            root.children.clear()

    def _ask(self, text: Text, context: Context, sequence: Sequence) -> TextRows:
        """That a text is read behind a context, into `sequence`."""
        return TextRows(self._evaluator, text.ids, sequence, context.position, False, adapter=context.adapter)

    def _extended(self, context: Context, segment: Segment) -> Sequence:
        sequence = self.pool.table.fork(context.sequence)
        try:
            if isinstance(segment, Text):
                self._evaluator.alone(self._ask(segment, context, sequence))
            elif segment.tokens:
                new_kv = self._prefill.run(segment, self.pool, sequence, context.position, context.adapter)
                self.pool.append(sequence, new_kv, segment.order if isinstance(segment, Latents) else None)
        except BaseException:
            self.pool.table.release(sequence)
            raise
        return sequence


class Lease:
    """The cached contexts that one call or session uses, kept from being freed until close() or the `with` block's end.

    Several leases may hold the same context. A lease holds all contexts on the path from the root, so no context is
    freed before those that continue it.
    """

    def __init__(self, tree: ContextTree, root: Context):
        self._tree, self._root = tree, root
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

    def room(self, context: Context) -> int:
        """As ContextTree.room."""
        return self._tree.room(context)

    def open(self, history: History) -> Context:
        """The context with this history; only segments not seen behind the same beginning are computed."""
        context = self._root
        for segment in history:
            context = self._take(self._tree.child(context, segment))
        return context

    def opened(self, history: History) -> Generator[TextRows, None, Context]:
        """As `open`, where the last segment is a text: it may be evaluated together with others' rows (`read`)."""
        *before, last = history
        context = self.open(tuple(before))
        if isinstance(last, Text):
            return self._take((yield from self._tree.read(context, last)))
        return self._take(self._tree.child(context, last))

    def keep(self, history: History) -> None:
        """Hold as much of this history as is cached already, and compute nothing."""
        context: Context | None = self._root
        for segment in history:
            context = context.children.get(segment)
            if context is None:
                return
            self._take(context)

    def branch(self, context: Context) -> Context:
        """A copy of a context that is not in the tree, to append tokens to while a text is decoded."""
        sequence = self._tree.pool.table.fork(context.sequence)
        return self._take(Context(sequence, context.position, adapter=context.adapter))

    def drop(self, branch: Context, tokens: int) -> None:
        """Take the last tokens, of text, off a branch."""
        self.pool.truncate(branch.sequence, branch.length - tokens)
        branch.position -= tokens

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

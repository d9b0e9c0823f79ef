"""The tree of contexts by itself, with keys and values that say how they came about: leases, branches, texts in common
calls, and what is left when all are closed."""

from __future__ import annotations

import numpy as np
import pytest
from sizes import dims

import bagel_rt
from bagel_rt.asks import TextRows
from bagel_rt.inputs.segments import Gap, Latents, Patches, Text
from bagel_rt.kv_cache.page_pool import PagePool
from bagel_rt.model.context_tree import ContextTree

ONE, TWO, OTHER = Text((1, 2, 3)), Text((4, 5)), Text((6,))
VAE = Latents(np.zeros((6, 64), np.float32), (2, 3))
VIT = Patches(np.zeros((4, 588), np.float32), (2, 2))
SLOTS = 128


class Images:
    """Keys and values of an image: each row says which row of the graph it was; the markers come first."""

    def __init__(self):
        self.given = []

    def run(self, segment, pool, past, position, adapter=()):
        self.given.append((segment, pool, past.length, position))
        rows = np.arange(segment.tokens, dtype=np.float32)
        return np.broadcast_to(rows[None, :, None, None], (6, segment.tokens, 2, 4))


class Texts:
    """Keys and values of a text: each row is its token."""

    def __init__(self, pool):
        self.pool, self.asked = pool, []

    def alone(self, ask: TextRows) -> None:
        assert (ask.evaluator, ask.logits) == (self, False)
        self.asked.append((ask.ids, ask.position))
        rows = np.array(ask.ids, np.float32)
        self.pool.append(ask.sequence, np.broadcast_to(rows[None, :, None, None], (6, len(ask.ids), 2, 4)))


class Tree:
    def __init__(self, positions: int = 50):
        self.pool = PagePool(dims(), SLOTS, page_size=4)
        self.images, self.texts = Images(), Texts(self.pool)
        self.tree = ContextTree(self.pool, self.images, self.texts, positions)  # type: ignore[arg-type]

    def stored(self, context) -> list[int]:
        return self.pool.read(context.sequence)[0, :, 0, 0].astype(int).tolist()

    def answered(self, work, merged: bool = False):
        """What a generator of asks returns; its rows are evaluated alone, or with others'."""
        try:
            while True:
                ask = next(work)
                self.texts.alone(ask)
                ask.merged = merged
        except StopIteration as end:
            return end.value


@pytest.fixture
def t():
    made = Tree()
    yield made
    made.pool.table.check_integrity()
    assert made.pool.table.free_tokens == SLOTS  # whatever a test did, every page is back


def test_an_images_rows_stand_in_the_order_of_the_segment_not_of_the_graph(t):
    with t.tree.lease() as lease:
        context = lease.open((ONE, VAE, VIT))
        # gen_step returns both markers first, the ViT's rows come as they stand
        assert t.stored(context) == [1, 2, 3, 0, 2, 3, 4, 5, 6, 7, 1, 0, 1, 2, 3, 4, 5]
        assert [(past, position) for _, _, past, position in t.images.given] == [(3, 3), (11, 4)]
        assert all(pool is t.pool for _, pool, _, _ in t.images.given)
        assert context.position == 5


def test_a_gap_takes_positions_and_no_tokens(t):
    with t.tree.lease() as lease:
        context = lease.open((Gap(7), ONE))
        assert (context.length, context.position) == (3, 10)
        assert t.texts.asked == [((1, 2, 3), 7)]


def test_a_context_knows_its_parent_and_is_its_parents_child_until_it_is_freed(t):
    lease = t.tree.lease()
    context = lease.open((ONE, TWO))
    assert context.parent is not None
    assert context.parent.children == {TWO: context}
    assert context.segment == TWO
    parent = context.parent
    assert t.tree.root.children == {ONE: parent}
    lease.close()
    assert parent.children == {}
    assert t.tree.root.children == {}
    lease.close()  # harmless


def test_a_context_is_freed_when_the_last_of_its_leases_is_closed(t):
    first, second = t.tree.lease(), t.tree.lease()
    context = first.open((ONE,))
    assert second.open((ONE, TWO)).parent is context
    assert first.open((ONE,)) is context  # held once, however often it is opened
    assert context.leases == 2
    first.close()
    assert (context.leases, t.stored(context)) == (1, [1, 2, 3])
    second.close()
    assert t.tree.root.children == {}


def test_a_text_that_is_read_among_others_asks_for_its_rows_and_is_kept_for_all_where_it_was_alone(t):
    with t.tree.lease() as lease:
        context = t.answered(lease.opened((ONE, TWO)))
        assert t.texts.asked == [((1, 2, 3), 0), ((4, 5), 3)]
        assert (t.stored(context), context.position) == ([1, 2, 3, 4, 5], 5)
        assert lease.open((ONE, TWO)) is context
        assert t.answered(lease.opened((ONE, TWO))) is context  # known: nothing is asked
        assert len(t.texts.asked) == 2
        assert context.leases == 1


def test_a_text_whose_rows_were_evaluated_with_others_is_given_to_nobody_else(t):
    with t.tree.lease() as lease:
        merged = t.answered(lease.opened((ONE, TWO)), merged=True)
        assert merged.segment is None
        assert merged.parent is not None
        assert merged.parent.children == {}
        again = lease.open((ONE, TWO))
        assert again is not merged
        assert lease.open((ONE, TWO)) is again
    assert t.tree.root.children == {}


def test_a_text_that_another_lease_read_meanwhile_leaves_that_ones_context_in_its_place(t):
    with t.tree.lease() as lease, t.tree.lease() as faster:
        work = lease.opened((TWO,))
        ask = next(work)
        other = faster.open((TWO,))
        t.texts.alone(ask)
        with pytest.raises(StopIteration) as end:
            work.send(None)
        assert end.value.value is not other
        assert t.tree.root.children == {TWO: other}
    assert t.tree.root.children == {}


def test_a_history_that_ends_with_an_image_is_opened_without_asking(t):
    with t.tree.lease() as lease:
        context = t.answered(lease.opened((ONE, VIT)))
        assert context is lease.open((ONE, VIT))
        assert t.texts.asked == [((1, 2, 3), 0)]


def test_a_text_that_is_given_up_while_it_is_read_gives_its_pages_back(t):
    with t.tree.lease() as lease:
        work = lease.opened((ONE, TWO))
        ask = next(work)
        t.texts.alone(ask)
        before = t.pool.table.free_tokens
        with pytest.raises(RuntimeError, match="given up"):
            work.throw(RuntimeError("given up"))
        assert t.pool.table.free_tokens > before
        assert lease.open((ONE,)).children == {}


def opened(t, lease, history):
    return lease.open(history)


def asked(t, lease, history):
    return t.answered(lease.opened(history))


@pytest.mark.parametrize("read", [opened, asked])
def test_a_texts_last_token_may_have_the_models_last_position_and_no_later_one(read):
    t = Tree(positions=5)
    with t.tree.lease() as lease:
        assert read(t, lease, (ONE, TWO)).position == 5  # positions 0 to 4
        with pytest.raises(bagel_rt.InputError, match="needs position 5, max_position_embeddings is 5"):
            read(t, lease, (ONE, TWO, OTHER))
        with pytest.raises(bagel_rt.InputError, match="needs position 6,"):
            read(t, lease, (ONE, Text((7, 8, 9, 9))))
        lease.check_position(4)
        with pytest.raises(bagel_rt.InputError, match="needs position 5,"):
            lease.check_position(5)


def test_there_is_room_for_as_many_tokens_as_cache_and_positions_take_together(t):
    with t.tree.lease() as lease:
        context = lease.open((ONE,))
        assert lease.room(context) == t.tree.room(context) == 50 - 3  # positions are fewer
        for n in range(2):
            lease.open((Latents(np.full((46, 64), n, np.float32), (2, 23)),))
        assert lease.room(context) == (SLOTS - 4 - 2 * 48) + 1  # pages are fewer: the rest of its own is one token


def test_what_is_cached_of_a_history_is_held_and_nothing_is_computed(t):
    first, second = t.tree.lease(), t.tree.lease()
    context = first.open((ONE, TWO))
    second.keep((ONE, TWO, OTHER))
    asked = len(t.texts.asked)
    assert context.leases == 2
    first.close()
    assert second.open((ONE, TWO)) is context
    assert len(t.texts.asked) == asked
    second.close()
    assert t.tree.root.children == {}


def test_a_branch_goes_on_where_its_context_ends_and_may_lose_its_last_tokens(t):
    with t.tree.lease() as lease:
        context = lease.open((ONE,))
        branch = lease.branch(context)
        assert (branch.length, branch.position, branch.segment) == (3, 3, None)
        t.texts.alone(TextRows(t.texts, (7, 8, 9), branch.sequence, branch.position, logits=False))  # type: ignore[arg-type]
        branch.position += 3
        lease.drop(branch, 2)
        assert (t.stored(branch), branch.position) == ([1, 2, 3, 7], 4)
        assert t.stored(context) == [1, 2, 3]
        assert context.children == {}


def test_leases_can_be_closed_after_the_tree_forgot_everything(t):
    lease = t.tree.lease()
    lease.open((ONE, TWO))
    t.tree.clear()
    assert t.tree.root.children == {}
    lease.close()

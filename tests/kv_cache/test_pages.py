"""The page table against a naive model: every sequence reads back its own tokens, and nothing leaks."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from sizes import dims

import bagel_rt
from bagel_engines import OutOfDeviceMemory
from bagel_rt.kv_cache.page_pool import PagePool
from bagel_rt.kv_cache.page_table import PageTable

PAGES, PAGE_SIZE = 12, 4


class PagesAgainstLists(RuleBasedStateMachine):
    """Sequences are lists of numbers in the model, and slots of a small memory in the table."""

    sequences = Bundle("sequences")

    def __init__(self):
        super().__init__()
        self.table = PageTable(PAGES, PAGE_SIZE)
        self.memory = [None] * (PAGES * PAGE_SIZE)
        self.model: dict[int, tuple] = {}
        self.next_token = 0

    @rule(target=sequences)
    def new(self):
        sequence = self.table.new()
        self.model[id(sequence)] = (sequence, [])
        return sequence

    @rule(target=sequences, source=sequences)
    def fork(self, source):
        before = self.table.free_tokens
        twin = self.table.fork(source)
        assert self.table.free_tokens == before
        self.model[id(twin)] = (twin, list(self.model[id(source)][1]))
        return twin

    @rule(sequence=sequences, count=st.integers(0, 11))
    def append(self, sequence, count):
        pages, length, free = list(sequence.pages), sequence.length, self.table.free_tokens
        room = self.table.room(sequence)
        tokens = list(range(self.next_token, self.next_token + count))
        try:
            appended = self.table.append(sequence, count)
        except bagel_rt.CacheFullError as error:
            assert count > room
            assert f"room for {free}" in str(error)
            assert f"{count} were asked for" in str(error)
            assert (sequence.pages, sequence.length, self.table.free_tokens) == (pages, length, free)
            return
        assert count <= room
        self.next_token += count
        for source, target, size in appended.copies:
            self.memory[target : target + size] = self.memory[source : source + size]
        for slot, token in zip(appended.slots, tokens, strict=True):
            self.memory[slot] = token
        self.model[id(sequence)][1].extend(tokens)

    @rule(sequence=sequences, share=st.floats(0, 1))
    def truncate(self, sequence, share):
        tokens = self.model[id(sequence)][1]
        length = int(share * len(tokens))
        self.table.truncate(sequence, length)
        del tokens[length:]

    @rule(sequence=consumes(sequences))
    def release(self, sequence):
        self.table.release(sequence)
        del self.model[id(sequence)]
        with pytest.raises(ValueError, match="released"):
            self.table.slots(sequence)

    @invariant()
    def every_sequence_reads_back_its_own_tokens(self):
        self.table.check_integrity()
        for sequence, tokens in self.model.values():
            assert [self.memory[slot] for slot in self.table.slots(sequence)] == tokens

    def teardown(self):
        for sequence, _ in self.model.values():
            self.table.release(sequence)
        self.table.check_integrity()
        assert self.table.free_tokens == PAGES * PAGE_SIZE


PagesAgainstLists.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestPagesAgainstLists = PagesAgainstLists.TestCase


def test_a_shared_partial_page_is_copied_once_and_only_when_it_is_written():
    table = PageTable(4, 4)
    first = table.new()
    table.append(first, 6)
    second = table.fork(first)
    assert table.append(first, 1).copies == ((4, 8, 2),)
    assert table.append(second, 1).copies == ()  # it is the page's only holder now
    table.check_integrity()


def test_a_fork_costs_pages_not_tokens():
    def seconds(tokens: int) -> float:
        table = PageTable(tokens // 16, 16)
        sequence = table.new()
        table.append(sequence, tokens)
        best = 1.0
        for _ in range(5):
            start = time.perf_counter()
            table.release(table.fork(sequence))
            best = min(best, time.perf_counter() - start)
        return best

    assert seconds(160_000) < 0.02  # 10,000 pages


def test_the_table_refuses_nonsense():
    with pytest.raises(ValueError, match="at least one page"):
        PageTable(0)
    table = PageTable(2)
    with pytest.raises(ValueError, match="cannot append -1"):
        table.append(table.new(), -1)
    with pytest.raises(ValueError, match="cannot keep 1 tokens of 0"):
        table.truncate(table.new(), 1)
    with pytest.raises(ValueError, match="another page table"):
        table.slots(PageTable(2).new())


def test_the_pool_gives_back_what_was_written_in_the_layout_of_the_contract():
    pool = PagePool(dims(), 64, page_size=4)
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((6, n, 2, 4)).astype(np.float32) for n in (6, 3))
    first = pool.table.new()
    pool.append(first, a)
    second = pool.table.fork(first)
    pool.append(second, b)
    pool.append(first, 2 * b)
    assert np.array_equal(pool.read(second), np.concatenate([a, b], axis=1))
    assert np.array_equal(pool.read(first), np.concatenate([a, 2 * b], axis=1))
    slots = pool.table.total_tokens
    for layer in range(3):
        rows = pool.tensor[(2 * layer + 1) * slots + pool.slots(second)]
        assert np.array_equal(rows, pool.read(second)[2 * layer + 1])


def test_a_released_or_foreign_sequence_is_refused_by_everything():
    table, other = PageTable(4, 4), PageTable(4, 4).new()
    released = table.new()
    table.release(released)
    assert (released.pages, released.length) == ([], 0)
    calls = [
        table.fork,
        table.room,
        table.slots,
        table.release,
        lambda s: table.append(s, 1),
        lambda s: table.truncate(s, 0),
    ]
    for call in calls:
        for sequence in (released, other):
            with pytest.raises(ValueError, match="was released or belongs to another page table"):
                call(sequence)
    table.check_integrity()


def test_a_table_may_have_one_page_of_one_token_and_pages_have_sixteen_unless_told():
    table = PageTable(1, 1)
    sequence = table.new()
    assert table.append(sequence, 1).slots == (0,)
    assert table.room(sequence) == 0
    assert PageTable(3).total_tokens == 48
    with pytest.raises(ValueError, match="one page of one token, got 1 of 0"):
        PageTable(1, 0)


def test_a_sequence_whose_half_page_is_shared_has_room_for_all_but_the_page_its_copy_takes():
    table = PageTable(4, 4)
    sequence = table.new()
    table.append(sequence, 6)
    assert table.room(sequence) == 10
    second = table.fork(sequence)
    assert table.room(sequence) == table.room(second) == 6
    with pytest.raises(bagel_rt.CacheFullError):
        table.append(second, 7)
    table.append(second, 6)
    assert table.room(sequence) == 2  # nobody shares its half page any more
    table.check_integrity()


def test_the_pool_writes_rows_in_the_order_it_is_told_and_takes_the_last_ones_back():
    pool = PagePool(dims(), 10, page_size=4)
    assert pool.table.total_tokens == 12  # whole pages
    rows = np.arange(5, dtype=np.float32)[None, :, None, None] * np.ones((6, 5, 2, 4), np.float32)
    sequence = pool.table.new()
    pool.append(sequence, rows, np.array([4, 0, 1, 2, 3]))
    assert pool.read(sequence)[0, :, 0, 0].tolist() == [1, 2, 3, 4, 0]
    pool.truncate(sequence, 2)
    assert pool.read(sequence)[0, :, 0, 0].tolist() == [1, 2]
    assert pool.slots(sequence).dtype == pool.take(sequence, 1).dtype == np.int64
    empty = pool.table.new()
    assert pool.slots(empty).dtype == pool.take(empty, 0).dtype == np.int64


@pytest.mark.parametrize("dtype, bits", [("float32", 32), ("float16", 16), ("bfloat16", 16)])
def test_the_pool_holds_what_it_was_told_to_hold(dtype, bits):
    pool = PagePool(dims(), 8, dtype, page_size=4)
    assert pool.tensor.shape == (6 * 8, 2, 4)
    assert 8 * pool.tensor.dtype.itemsize == bits


def test_a_closed_pool_holds_nothing_and_its_books_still_answer():
    pool = PagePool(dims(), 8, page_size=4)
    sequence = pool.table.new()
    pool.take(sequence, 3)
    pool.close()
    assert (pool.tensor.shape, pool.tensor.dtype) == ((0, 0, 0), np.float32)
    assert pool.read(sequence.__class__()).shape == (0, 0, 0, 0)
    assert pool.slots(sequence).tolist() == [0, 1, 2]


def test_an_unused_pool_takes_no_memory():
    def resident() -> int:
        import psutil

        return psutil.Process().memory_info().rss

    before = resident()
    pool = PagePool(dims(num_hidden_layers=28, num_key_value_heads=4, head_dim=128), 16384)
    assert pool.tensor.nbytes > 1 << 30
    assert resident() - before < 64 << 20


def test_a_pool_that_cannot_be_addressed_is_refused():
    # 2 * 3 layers, 2 heads of 4 numbers of 2 bytes: 96 bytes a token
    with pytest.raises(bagel_rt.InputError, match=r"cache_tokens 10000000000000 needs 894069\.7 GiB"):
        PagePool(dims(), 10**13, "float16")


@pytest.mark.parametrize("error", [MemoryError, OutOfDeviceMemory])
def test_a_pool_that_the_machine_or_device_does_not_give_is_refused(error):
    def full(*_):
        raise error("full")

    with pytest.raises(bagel_rt.InputError, match=r"cache_tokens 100 needs 0\.0 GiB, which this machine does not give"):
        PagePool(dims(), 100, make_cache=full)

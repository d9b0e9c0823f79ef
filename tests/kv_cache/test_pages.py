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


def test_an_unused_pool_takes_no_memory():
    def resident() -> int:
        import psutil

        return psutil.Process().memory_info().rss

    before = resident()
    pool = PagePool(dims(num_hidden_layers=28, num_key_value_heads=4, head_dim=128), 16384)
    assert pool.tensor.nbytes > 1 << 30
    assert resident() - before < 64 << 20


def test_a_pool_that_cannot_be_addressed_is_refused():
    with pytest.raises(bagel_rt.InputError, match="cache_tokens 10000000000000 needs"):
        PagePool(dims(), 10**13)

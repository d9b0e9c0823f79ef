"""The page table: which slots of the pool hold which context's tokens. Integers and reference counts only, no tensors.

A slot holds the keys and values of one token; a page is `page_size` slots. A sequence is the list of pages of one
context. Forked sequences share pages; a shared page that is not full is copied before one of them appends to it.

Invariant (check_integrity): a page's count equals the number of sequences whose page list holds it, pages with count 0
are exactly the free ones, and a slot that two sequences can read is never given out for writing.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from bagel_rt.errors import CacheFullError


@dataclass
class Sequence:
    """One context's tokens: they fill the first `length` slots of its pages. Made and changed by PageTable only."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


@dataclass(frozen=True)
class Appended:
    """What the owner of the memory must do for an append: first these copies (source slot, target slot, count) within
    the pool, then write the new tokens to `slots`."""

    copies: tuple[tuple[int, int, int], ...]
    slots: tuple[int, ...]


class PageTable:
    def __init__(self, pages: int, page_size: int = 16):
        if pages < 1 or page_size < 1:
            raise ValueError(f"a page table needs at least one page of one token, got {pages} of {page_size}")
        self.page_size = page_size
        self._counts = [0] * pages
        self._free = list(range(pages))  # a heap: the lowest pages first, so that little memory is ever touched
        self._live: dict[int, Sequence] = {}

    @property
    def free_tokens(self) -> int:
        return len(self._free) * self.page_size

    @property
    def total_tokens(self) -> int:
        return len(self._counts) * self.page_size

    def new(self) -> Sequence:
        """An empty sequence."""
        sequence = Sequence()
        self._live[id(sequence)] = sequence
        return sequence

    def fork(self, source: Sequence) -> Sequence:
        """A second owner of the same tokens, in O(pages): nothing is copied until one of them appends."""
        self._check_live(source)
        for page in source.pages:
            self._counts[page] += 1
        sequence = Sequence(list(source.pages), source.length)
        self._live[id(sequence)] = sequence
        return sequence

    def append(self, sequence: Sequence, tokens: int) -> Appended:
        """Give `tokens` new slots to a sequence. A partial last page that others hold is copied first.

        Raises CacheFullError, with nothing changed, when the pool has too few free pages.
        """
        self._check_live(sequence)
        if tokens < 0:
            raise ValueError(f"cannot append {tokens} tokens")
        if tokens == 0:
            return Appended((), ())
        used, shared = sequence.length % self.page_size, self._copied_first(sequence)
        needed = -(-(sequence.length + tokens) // self.page_size) - len(sequence.pages) + shared
        if needed > len(self._free):
            raise CacheFullError(
                f"the cache has room for {self.free_tokens} more tokens of {self.total_tokens}, {tokens} were asked for"
                f" on top of {sequence.length}; load with a larger cache_tokens or use less or smaller input"
            )
        copies: tuple[tuple[int, int, int], ...] = ()
        if shared:
            old = sequence.pages[-1]
            sequence.pages[-1] = self._take()
            self._counts[old] -= 1
            copies = ((old * self.page_size, sequence.pages[-1] * self.page_size, used),)
            needed -= 1
        sequence.pages.extend(self._take() for _ in range(needed))
        start = sequence.length
        sequence.length += tokens
        return Appended(copies, tuple(self._slot(sequence, i) for i in range(start, sequence.length)))

    def room(self, sequence: Sequence) -> int:
        """How many tokens `append` would give this sequence now."""
        self._check_live(sequence)
        if (shared := self._copied_first(sequence)) and not self._free:
            return 0
        last = -sequence.length % self.page_size  # what is left of the last page
        return last + (len(self._free) - shared) * self.page_size

    def truncate(self, sequence: Sequence, length: int) -> None:
        """Take the last tokens off a sequence, so that `length` stay; pages that nobody else holds become free."""
        self._check_live(sequence)
        if not 0 <= length <= sequence.length:
            raise ValueError(f"cannot keep {length} tokens of {sequence.length}")
        kept = -(-length // self.page_size)
        dropped, sequence.pages = sequence.pages[kept:], sequence.pages[:kept]
        sequence.length = length
        self._give_back(dropped)

    def release(self, sequence: Sequence) -> None:
        """Give a sequence back; pages nobody else holds become free. A released sequence cannot be used again."""
        self._check_live(sequence)
        del self._live[id(sequence)]
        self._give_back(sequence.pages)
        sequence.pages, sequence.length = [], 0

    def slots(self, sequence: Sequence) -> list[int]:
        """The pool slots of a sequence's tokens, in order."""
        self._check_live(sequence)
        return [self._slot(sequence, i) for i in range(sequence.length)]

    def check_integrity(self) -> None:
        """Assert the invariant stated at the top of this module (tests call it)."""
        counts = [0] * len(self._counts)
        for sequence in self._live.values():
            assert len(sequence.pages) == -(-sequence.length // self.page_size)
            assert len(set(sequence.pages)) == len(sequence.pages)
            for page in sequence.pages:
                counts[page] += 1
        assert counts == self._counts
        assert sorted(self._free) == [page for page, count in enumerate(counts) if not count]

    def _copied_first(self, sequence: Sequence) -> bool:
        """Whether the last page is partial and others hold it too."""
        return bool(sequence.length % self.page_size) and self._counts[sequence.pages[-1]] > 1

    def _give_back(self, pages: list[int]) -> None:
        for page in pages:
            self._counts[page] -= 1
            if not self._counts[page]:
                heapq.heappush(self._free, page)

    def _take(self) -> int:
        page = heapq.heappop(self._free)
        self._counts[page] = 1
        return page

    def _slot(self, sequence: Sequence, index: int) -> int:
        return sequence.pages[index // self.page_size] * self.page_size + index % self.page_size

    def _check_live(self, sequence: Sequence) -> None:
        if self._live.get(id(sequence)) is not sequence:
            raise ValueError("this sequence was released or belongs to another page table")

"""The page pool: keys and values of all cached tokens in an engine's memory, and the page table that says which is
whose.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bagel_engines import Cache, HostCache, OutOfDeviceMemory, Tensor
from bagel_engines.number_formats import KEPT_AS
from bagel_rt.artefact.contract import ModelDims
from bagel_rt.engine_errors import named_failures
from bagel_rt.errors import InputError
from bagel_rt.kv_cache.page_table import PageTable, Sequence

PAGE_SIZE = 16  # tokens
CACHE_TOKENS = 32768  # room in a pool when nobody says how much


def slots_for(tokens: int, page_size: int = PAGE_SIZE) -> int:
    """How many slots a pool for so many tokens has: whole pages."""
    return -(-tokens // page_size) * page_size


class PagePool:
    """A pool for up to `tokens` tokens. make_cache: allocates the memory (Engine.cache); dtype: what it holds, a key of
    number_formats.KEPT_AS.

    Raises InputError where the machine, or the device, has too little memory for it.
    """

    def __init__(
        self,
        model: ModelDims,
        tokens: int,
        dtype: str = "float32",
        page_size: int = PAGE_SIZE,
        make_cache: Callable[..., Cache] = HostCache,
    ):
        pages = slots_for(tokens, page_size) // page_size
        halves, row = 2 * model.num_hidden_layers, (model.num_key_value_heads, model.head_dim)
        try:
            self._cache = make_cache(halves, pages * page_size, row, KEPT_AS[dtype])
        except (MemoryError, OutOfDeviceMemory):
            size = halves * tokens * int(np.prod(row)) * KEPT_AS[dtype].itemsize
            raise InputError(
                f"cache_tokens {tokens} needs {size / 2**30:.1f} GiB, which this machine does not give; ask for fewer"
            ) from None
        self.table = PageTable(pages, page_size)

    @property
    def tensor(self) -> Tensor:
        """The whole pool, as the step graphs' input `pool`."""
        return self._cache.tensor

    def slots(self, sequence: Sequence) -> np.ndarray:
        """(length,) int64: where the sequence's tokens are in the pool; the step graphs' input `slots`."""
        size = self.table.page_size
        starts = np.asarray(sequence.pages, np.int64)[:, None] * size
        return (starts + np.arange(size)).ravel()[: sequence.length]

    def append(self, sequence: Sequence, new_kv: Tensor, order: np.ndarray | None = None) -> None:
        """Write new_kv (2 * layers, tokens, kv heads, head dim) behind a sequence's tokens.

        order: the place of each token of new_kv within the segment, where a graph returns them in another order.
        """
        slots = self.take(sequence, new_kv.shape[1])
        self.write(slots if order is None else slots[order], new_kv)

    def take(self, sequence: Sequence, tokens: int) -> np.ndarray:
        """Give `tokens` new slots (tokens,) to a sequence; nothing is written there yet."""
        appended = self.table.append(sequence, tokens)
        with named_failures():
            for source, target, count in appended.copies:
                self._cache.move(source, target, count)
        return np.asarray(appended.slots, np.int64)

    def write(self, slots: np.ndarray, new_kv: Tensor) -> None:
        """Write new_kv (2 * layers, tokens, kv heads, head dim) to slots (tokens,) that `take` gave."""
        with named_failures():
            self._cache.write(slots, new_kv)

    def truncate(self, sequence: Sequence, length: int) -> None:
        """Keep a sequence's first `length` tokens. Dropped keys and values are not erased; no slot leads to them."""
        self.table.truncate(sequence, length)

    def close(self) -> None:
        """Give the memory back. The page table still answers; keys and values are gone."""
        self._cache = HostCache(0, 0, (0, 0), np.dtype(np.float32))

    def read(self, sequence: Sequence) -> np.ndarray:
        """The cached keys and values (2 * layers, length, kv heads, head dim), copied out."""
        with named_failures():
            return self._cache.read(self.slots(sequence))

"""The page pool: the memory behind the page table, one array for the keys and values of every layer."""

from __future__ import annotations

import numpy as np

from bagel_rt.contract import ModelDims
from bagel_rt.errors import InputError
from bagel_rt.numbers import KEPT_AS
from bagel_rt.pages import PageTable, Sequence


class PagePool:
    """`array` (2 * layers * slots, kv heads, head dim), dtype as contract.graph_specs, is what the step graphs read.

    The array is virtual memory until a page is written, so a large budget costs nothing until it is used. Raises
    InputError for a budget that the machine cannot even address.
    """

    def __init__(self, model: ModelDims, tokens: int, dtype: str = "float32", page_size: int = 16):
        pages = -(-tokens // page_size)
        halves, row = 2 * model.num_hidden_layers, (model.num_key_value_heads, model.head_dim)
        try:
            self.array = np.zeros((halves * pages * page_size, *row), KEPT_AS[dtype])
        except (MemoryError, ValueError):
            size = halves * tokens * int(np.prod(row)) * KEPT_AS[dtype].itemsize
            raise InputError(
                f"cache_tokens {tokens} needs {size / 2**30:.1f} GiB of address space, which this machine does not"
                " give; ask for fewer"
            ) from None
        self._by_layer = self.array.reshape(halves, pages * page_size, *row)
        self.table = PageTable(pages, page_size)

    def slots(self, sequence: Sequence) -> np.ndarray:
        """(length,) int64, the contract's `slots`."""
        size = self.table.page_size
        starts = np.asarray(sequence.pages, np.int64)[:, None] * size
        return (starts + np.arange(size)).ravel()[: sequence.length]

    def append(self, sequence: Sequence, new_kv: np.ndarray) -> None:
        """Write new_kv (2 * layers, tokens, kv heads, head dim) behind a sequence's tokens."""
        appended = self.table.append(sequence, new_kv.shape[1])
        for source, target, count in appended.copies:
            self._by_layer[:, target : target + count] = self._by_layer[:, source : source + count]
        self._by_layer[:, np.asarray(appended.slots, np.int64)] = new_kv

    def read(self, sequence: Sequence) -> np.ndarray:
        """The cached keys and values (2 * layers, length, kv heads, head dim), copied out."""
        return self._by_layer[:, self.slots(sequence)]

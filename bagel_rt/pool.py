"""The page pool: the memory behind the page table, one array for the keys and values of every layer."""

from __future__ import annotations

import numpy as np

from bagel_rt.contract import ModelDims
from bagel_rt.pages import PageTable, Sequence


class PagePool:
    """`array` (2 * layers * slots, kv heads, head dim) float32 is what the step graphs read (contract: pool).

    The array is virtual memory until a page is written, so a large budget costs nothing until it is used.
    """

    def __init__(self, model: ModelDims, tokens: int, page_size: int = 16):
        self.table = PageTable(-(-tokens // page_size), page_size)
        slots = self.table.total_tokens
        halves = 2 * model.num_hidden_layers
        self.array = np.zeros((halves * slots, model.num_key_value_heads, model.head_dim), np.float32)
        self._by_layer = self.array.reshape(halves, slots, model.num_key_value_heads, model.head_dim)

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

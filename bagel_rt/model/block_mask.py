"""Several contexts in one call of the understanding expert: the slots of them all, and who sees which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def block_mask(pasts: Sequence[np.ndarray], rows: Sequence[int], pool_slots: int) -> tuple[np.ndarray, np.ndarray]:
    """The step graphs' inputs `slots` (past,) and `mask` (all rows, past + all rows) for rows of several texts.

    pasts: the slots of each text's context; rows: how many rows each adds. A slot that several contexts have in common
    is named once. Each row sees its own context, the rows of its text before it, and itself.
    """
    used = np.zeros(pool_slots, bool)
    for past in pasts:
        used[past] = True
    slots = np.flatnonzero(used)
    column = np.empty(pool_slots, np.int64)
    column[slots] = np.arange(len(slots))
    mask = np.zeros((sum(rows), len(slots) + sum(rows)), bool)
    first = 0
    for past, count in zip(pasts, rows, strict=True):
        own = slice(first, first + count)
        mask[own, column[past]] = True
        mask[own, len(slots) + first : len(slots) + first + count] = np.tri(count, dtype=bool)
        first += count
    return slots, mask

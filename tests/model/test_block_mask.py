"""Several contexts in one call: every row sees what it would see alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bagel_rt.model.block_mask import block_mask

SLOTS = 40
contexts = st.lists(
    st.tuples(st.permutations(range(SLOTS)), st.integers(0, SLOTS), st.integers(1, 4)), min_size=1, max_size=5
)


@given(contexts)
def test_each_row_sees_its_context_once_and_the_rows_of_its_text_up_to_itself(given_contexts):
    pasts = [np.array(order[:length], np.int64) for order, length, _ in given_contexts]
    rows = [count for *_, count in given_contexts]
    slots, mask = block_mask(pasts, rows, SLOTS)
    assert sorted(set(slots)) == sorted(slots)
    assert set(slots) == {slot for past in pasts for slot in past}
    row = 0
    for past, count in zip(pasts, rows, strict=True):
        for nth in range(count):
            assert sorted(slots[mask[row, : len(slots)]]) == sorted(past)
            seen = np.flatnonzero(mask[row, len(slots) :])
            assert seen.tolist() == list(range(row - nth, row + 1))
            row += 1
    assert mask.shape == (row, len(slots) + row)

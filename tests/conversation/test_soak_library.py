"""The short form of bench/soak_library.py: clients that leave, fail, are slow or ask for what cannot be."""

from __future__ import annotations

import pytest

from bench.soak_library import soak


@pytest.mark.parametrize("fails_every", [None, 60])
def test_clients_of_every_kind_get_their_own_results_and_leave_nothing_behind(small_bagel, fails_every):
    found = soak(small_bagel, clients=8, length=4.0, fails_every=fails_every, seed=1)
    assert found["wrong"] == []
    assert found["pages_back"]
    assert (found["threads_left"], found["descriptors_left"]) == (0, 0)
    assert found["requests"]["cancelled"] > 0
    assert found["requests_in_all"] > 20
    assert ("failed" in found["requests"]) == (fails_every is not None)

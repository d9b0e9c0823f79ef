"""The short form of bench/soak.py: many clients at once, some of whom behave badly."""

from __future__ import annotations

from bench import soak


def test_nothing_is_lost_mixed_up_or_left_behind_while_clients_cancel_err_and_dawdle(caplog):
    found = soak.soak(clients=12, seconds=6)
    assert found["wrong"] == []
    assert not soak.failed(found), found
    assert {"answered picture", "answered text", "went away"} <= set(found["outcomes"])
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []

"""The short form of bench/soak.py: many clients at once, some of whom behave badly; and who waits in line."""

from __future__ import annotations

from live_server import Lent, serving, soon

import bagel_rt
from bench import soak


def test_nothing_is_lost_mixed_up_or_left_behind_while_clients_cancel_err_and_dawdle(caplog):
    found = soak.soak(clients=12, seconds=6)
    assert found["wrong"] == []
    assert not soak.failed(found), found
    assert {"answered picture", "answered text", "went away"} <= set(found["outcomes"])
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_who_goes_away_while_waiting_for_room_leaves_the_line():
    with bagel_rt.load("bagel-nano", "onnxruntime", cache_tokens=96, queue_length=4) as bagel:
        holding = bagel.stream("a ring", "text", max_tokens=90, do_sample=True, text_temperature=3.0, seed=1)
        next(holding)
        line = bagel._scheduler.line
        with serving(lambda: Lent(bagel)) as live:
            body = {"messages": [{"role": "user", "content": "a ring"}], "max_tokens": 80, "stream": True}
            with live.http.stream("POST", "/v1/chat/completions", json=body) as answer:
                next(answer.iter_lines())
                assert soon(lambda: len(line._waiting) == 1)
            assert soon(lambda: not line._waiting, 3)
            assert live.rests(3)
        holding.close()

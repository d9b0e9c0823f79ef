"""Requests that go on from something kept name the replica that keeps it."""

from __future__ import annotations

import json

import pytest
from live_server import Lent, serving

from bagel_rt.serve.places import new_id, place_of


@pytest.mark.parametrize("kind", ["sess", "resp"])
def test_an_id_leads_back_to_its_place_and_one_without_a_place_anywhere(kind):
    name = new_id(kind, "a1B2")
    route = {"sess": "sessions", "resp": "responses"}[kind]
    assert place_of(f"/v1/{route}/{name}", b"") == "a1B2"
    assert place_of(f"/v1/{route}/{name}/turns", b"{}") == "a1B2"
    assert place_of(f"/v1/{route}/{new_id(kind, '')}", b"") == ""
    assert new_id(kind, "a1B2") != name


def test_an_earlier_answer_is_found_in_the_body_of_a_response_alone():
    body = json.dumps({"input": "and?", "previous_response_id": new_id("resp", "x7")}).encode()
    assert place_of("/v1/responses", body) == "x7"
    assert place_of("/v1/chat/completions", body) == ""


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"3", b"\xff\xfe{", b'{"previous_response_id": 3}', b'{"previous_response_id": "x"}',
             b"[" * 100_000]
)  # fmt: skip
def test_a_body_that_names_nothing_goes_anywhere(body):
    assert place_of("/v1/responses", body) == ""


def test_a_server_that_has_a_place_names_it_in_its_ids(nano):
    with serving(lambda: Lent(nano), place="r5") as live:
        session = live.post("/v1/sessions", {"seed": 1}).json()["id"]
        assert place_of(f"/v1/sessions/{session}/fork", b"") == "r5"
        assert live.post(f"/v1/sessions/{session}/turns", {"text": "a ring"}).json()["turn"] == 1
        first = live.post("/v1/responses", {"input": "a ring", "max_output_tokens": 2}).json()["id"]
        assert place_of(f"/v1/responses/{first}", b"") == "r5"
        again = {"input": "and?", "max_output_tokens": 2, "previous_response_id": first}
        assert live.post("/v1/responses", again).status_code == 200

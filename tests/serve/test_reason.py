"""POST /v1/reason: the loop of words and pictures, over HTTP."""

from __future__ import annotations

import pytest
from live_server import data_url, events_of, opened

HOW = {"style": "zebra-cot", "max_pictures": 1, "seed": 1, "num_timesteps": 4}


def asking(circle, **more):
    return {"prompt": "how many shapes are there?", "images": [data_url(circle)], "max_tokens": 11, **HOW, **more}


@pytest.fixture(scope="module")
def thought(nano, circle):
    """What the library gives."""
    return nano.reason("how many shapes are there?", circle, max_tokens=12, **HOW)


def test_the_answer_has_the_librarys_texts_and_pictures_in_their_order(live, circle, thought):
    answer = live.post("/v1/reason", asking(circle)).json()
    assert [one["type"] for one in answer["parts"]] == ["text", "image", "text"]
    assert [one["text"] for one in answer["parts"] if one["type"] == "text"] == [one.text for one in thought.texts]
    drawn = opened(answer["parts"][1]["b64_json"]).convert("RGB")
    assert drawn.tobytes() == thought.pictures[0].image.tobytes()
    assert (answer["answer"], answer["stopped"], answer["seed"]) == (thought.answer, thought.stopped, 1)
    assert answer["usage"]["output_tokens_details"]["text_tokens"] == sum(len(t.token_ids) - 1 for t in thought.texts)


def test_a_stream_tells_the_same_piece_by_piece_with_previews(live, circle, thought):
    events = events_of(live.post("/v1/reason", asking(circle, stream=True, partial_images=2, progress=True)).text)
    deltas = [one for one in events if one["type"] == "reason.text.delta"]
    texts = ["".join(one["delta"] for one in deltas if one["part"] == part) for part in (0, 2)]
    assert texts == [one.text for one in thought.texts]
    (picture,) = [one for one in events if one["type"] == "reason.image"]
    assert picture["part"] == 1
    assert opened(picture["b64_json"]).convert("RGB").tobytes() == thought.pictures[0].image.tobytes()
    assert [one["part"] for one in events if one["type"] == "reason.image.partial_image"] == [1, 1]
    assert any(one["type"] == "reason.progress" for one in events)
    assert events[-1]["type"] == "reason.completed"
    assert events[-1]["answer"] == thought.answer


@pytest.mark.parametrize(
    "wrong, word",
    [({"style": "/etc/passwd"}, "style"), ({"style": "mine"}, "style"), ({"max_pictures": 99}, "max_pictures"),
     ({"prompt": 3}, "prompt"), ({"images": ["x"]}, "images"), ({"num_timesteps": 1}, "num_timesteps")],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_refused(live, circle, wrong, word):
    answer = live.post("/v1/reason", {**asking(circle), **wrong})
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]


def test_who_goes_away_ends_the_loop(live, circle):
    wanted = asking(circle, num_timesteps=900, stream=True, progress=True)
    with live.http.stream("POST", "/v1/reason", json=wanted) as one:
        lines = one.iter_lines()
        while "drawing" not in next(lines):
            pass
    assert live.rests(5)

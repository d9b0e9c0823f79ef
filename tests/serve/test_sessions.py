"""/v1/sessions on a live server."""

from __future__ import annotations

import numpy as np
import pytest
from live_server import STEPS, Lent, data_url, events_of, opened, serving, soon


@pytest.fixture
def session(live):
    made = live.post("/v1/sessions", {"seed": 1})
    assert made.status_code == 201
    yield f"/v1/sessions/{made.json()['id']}"
    live.http.delete(f"/v1/sessions/{made.json()['id']}")


def turn(live, session, **body):
    answer = live.post(f"{session}/turns", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_its_turns_are_those_of_the_library(live, nano, circle, session):
    with nano.session(seed=1) as same:
        same.add_image(circle)
        same.add_text("what colour is the circle?")
        answer = same.generate_text().text
        same.add_text("make the circle green")
        picture = same.generate_image(num_timesteps=STEPS).image
    told = turn(live, session, text="what colour is the circle?", images=[data_url(circle)], output="text")
    assert told["text"] == answer
    drawn = turn(live, session, text="make the circle green", output="image", num_timesteps=STEPS)
    assert np.array_equal(np.asarray(opened(drawn["image"]["b64_json"])), np.asarray(picture))
    assert live.get(session).json()["turns"] == drawn["turn"] == 2


def test_a_rollback_takes_turns_back_random_numbers_included(live, session):
    turn(live, session, text="a red ring")
    first = turn(live, session, output="image", num_timesteps=STEPS)
    assert live.post(f"{session}/rollback", {"turns": 1}).json()["turns"] == 1
    again = turn(live, session, output="image", num_timesteps=STEPS)
    assert again["image"]["b64_json"] == first["image"]["b64_json"]
    assert live.post(f"{session}/rollback", {"turns": 9}).status_code == 400


def test_a_fork_has_the_same_past_and_a_future_of_its_own(live, session):
    turn(live, session, text="a red ring")
    fork = f"/v1/sessions/{live.post(f'{session}/fork', {}).json()['id']}"
    one = turn(live, session, output="image", num_timesteps=STEPS)
    assert turn(live, fork, output="image", num_timesteps=STEPS)["image"]["b64_json"] == one["image"]["b64_json"]
    turn(live, fork, text="make it blue")
    assert (live.get(session).json()["turns"], live.get(fork).json()["turns"]) == (2, 3)
    assert live.http.delete(fork).json()["deleted"]
    assert live.get(fork).status_code == 404


def test_a_turn_is_streamed(live, session):
    wanted = {"text": "a red ring", "output": "image", "num_timesteps": 9, "stream": True, "partial_images": 2}
    kinds = [one["type"] for one in events_of(live.post(f"{session}/turns", wanted).text)]
    assert kinds == ["session.image.partial_image"] * 2 + ["session.turn.completed"]
    words = events_of(live.post(f"{session}/turns", {"text": "what is it?", "output": "text", "stream": True}).text)
    text = "".join(one["delta"] for one in words if one["type"] == "session.text.delta")
    assert words[-1]["text"] == text


def test_a_turn_that_is_cancelled_or_refused_leaves_the_session_as_it_was(live, session):
    turn(live, session, text="a red ring")
    same = f"/v1/sessions/{live.post(f'{session}/fork', {}).json()['id']}"
    with live.http.stream("POST", f"{session}/turns", json={"text": "x", "output": "image", "num_timesteps": 1000,
                                                            "stream": True, "progress": True}) as answer:  # fmt: skip
        lines = answer.iter_lines()
        next(lines)
        assert live.post(f"{session}/turns", {"text": "y"}).status_code == 409
    assert live.rests()
    assert live.post(f"{session}/turns", {"text": "x", "output": "image", "num_timesteps": 1}).status_code == 400
    assert live.post(f"{session}/turns", {"text": "x", "output": "image", "seed": 1}).status_code == 400
    assert live.post(f"{session}/turns", {}).status_code == 400
    assert live.get(session).json()["turns"] == 1
    drawn = [turn(live, one, output="image", num_timesteps=STEPS)["image"]["b64_json"] for one in (session, same)]
    assert drawn[0] == drawn[1]


def test_a_session_that_is_deleted_in_the_middle_of_a_turn_ends_it(live):
    session = f"/v1/sessions/{live.post('/v1/sessions', {}).json()['id']}"
    body = {"text": "x", "output": "image", "num_timesteps": 1000, "stream": True, "progress": True}
    with live.http.stream("POST", f"{session}/turns", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert live.http.delete(session).json()["deleted"]
        assert "was deleted in the middle" in "".join(lines)
    assert live.rests()


def test_a_session_may_plan_its_pictures(live):
    made = live.post("/v1/sessions", {"think": "image", "seed": 3}).json()
    session = f"/v1/sessions/{made['id']}"
    drawn = turn(live, session, text="a red ring", output="image", num_timesteps=STEPS, max_think_tokens=30)
    assert drawn["reasoning_content"]
    live.http.delete(session)


def test_sessions_that_rest_are_given_back_and_the_oldest_makes_room(nano):
    free = nano.free_tokens
    with serving(lambda: Lent(nano), session_idle=1.0, max_sessions=2) as live:
        names = []
        for _ in range(3):
            names.append(live.post("/v1/sessions", {}).json()["id"])
            turn(live, f"/v1/sessions/{names[-1]}", text="words of this test alone " * 20)
        assert live.get(f"/v1/sessions/{names[0]}").status_code == 404
        assert live.get(f"/v1/sessions/{names[2]}").status_code == 200
        assert nano.free_tokens < free
        assert soon(lambda: nano.free_tokens == free, 5)
        assert "rest for 1 seconds" in live.get(f"/v1/sessions/{names[2]}").json()["error"]["message"]
        assert "bagel_rt_sessions 0.0" in live.get("/metrics").text


@pytest.mark.parametrize("wrong", [{"think": "pictures"}, {"think": 1}, {"seed": "x"}, {"system": 3}])
def test_a_session_that_cannot_be_is_refused(live, wrong):
    assert live.post("/v1/sessions", wrong).status_code == 400
    assert live.post("/v1/sessions/sess_none/turns", {"text": "x"}).status_code == 404

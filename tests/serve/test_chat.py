"""POST /v1/chat/completions, on a live server."""

from __future__ import annotations

import numpy as np
import pytest
from live_server import STEPS, data_url, events_of, opened

QUESTION = "what colour is the circle?"


def asking(circle: bytes, text: str = QUESTION, **more):
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": data_url(circle)}}]
    return {"messages": [{"role": "user", "content": parts}], **more}


def test_an_answer_is_the_one_that_the_library_gives(live, nano, circle):
    answer = live.post("/v1/chat/completions", asking(circle)).json()
    expected = nano.ask(QUESTION, circle)
    assert answer["choices"][0]["message"]["content"] == expected.text
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(expected.token_ids) - 1


def test_a_streams_pieces_are_the_answer(live, nano, circle):
    wanted = asking(circle, stream=True, stream_options={"include_usage": True})
    events = events_of(live.post("/v1/chat/completions", wanted).text)
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == nano.ask(QUESTION, circle).text
    assert events[-1]["usage"]["total_tokens"] > 0
    assert [c["finish_reason"] for event in events for c in event["choices"]][-1] == "stop"


def test_tokens_are_counted_as_they_are_written(live, circle):
    answer = live.post("/v1/chat/completions", asking(circle, max_tokens=1)).json()
    assert answer["usage"]["completion_tokens"] == 1
    assert answer["choices"][0]["finish_reason"] == "length"


def test_an_answer_ends_before_what_it_is_to_stop_at(live, nano, circle):
    whole = nano.ask(QUESTION, circle).text
    stop = whole[1:3]
    answer = live.post("/v1/chat/completions", asking(circle, stop=[stop, "never"])).json()["choices"][0]
    assert answer["message"]["content"] == whole[: whole.index(stop)]
    assert answer["finish_reason"] == "stop"
    events = events_of(live.post("/v1/chat/completions", asking(circle, stop=stop, stream=True)).text)
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == whole[: whole.index(stop)]


def test_tools_are_refused_unless_none_is_to_be_called(live, circle):
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    refused = live.post("/v1/chat/completions", asking(circle, tools=tools))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "tools"
    answered = live.post("/v1/chat/completions", asking(circle, tools=tools, tool_choice="none", max_tokens=3))
    assert answered.status_code == 200
    assert "x-bagel-warning" not in answered.headers


def test_a_picture_stands_in_the_content_and_in_the_images(live, nano):
    wanted = {"messages": [{"role": "user", "content": "a red ring"}], "modalities": ["image", "text"], "seed": 2}
    message = live.post("/v1/chat/completions", {**wanted, "num_timesteps": STEPS}).json()["choices"][0]["message"]
    one, other = message["content"][0]["image_url"]["url"], message["images"][0]["image_url"]["url"]
    assert one == other
    expected = nano.generate("a red ring", seed=2, num_timesteps=STEPS).image
    assert np.array_equal(np.asarray(opened(one)), np.asarray(expected))


def test_a_drawn_picture_that_comes_back_in_images_is_changed(live, nano):
    drawn = nano.generate("a red ring", seed=2, num_timesteps=STEPS).image
    drawn.save(stream := __import__("io").BytesIO(), "PNG")
    talk = [
        {"role": "assistant", "content": "", "images": [{"image_url": {"url": data_url(stream.getvalue())}}]},
        {"role": "user", "content": "make the ring blue"},
    ]
    wanted = {"messages": talk, "modalities": ["image"], "seed": 2, "num_timesteps": STEPS}
    url = live.post("/v1/chat/completions", wanted).json()["choices"][0]["message"]["images"][0]["image_url"]["url"]
    expected = nano.edit(drawn, "make the ring blue", seed=2, num_timesteps=STEPS).image
    assert np.array_equal(np.asarray(opened(url)), np.asarray(expected))


def test_a_picture_in_a_stream_comes_with_previews_in_delta_images(live):
    wanted = {"messages": [{"role": "user", "content": "a red ring"}], "modalities": ["image"], "stream": True}
    events = events_of(live.post("/v1/chat/completions", {**wanted, "num_timesteps": 9, "partial_images": 2}).text)
    found = [image for event in events for c in event["choices"] for image in c["delta"].get("images", [])]
    assert ["partial_image_index" in one for one in found] == [True, True, False]


def test_the_plan_of_a_picture_is_reasoning(live):
    wanted = {"messages": [{"role": "user", "content": "as many triangles as a car has wheels"}],
              "modalities": ["image"], "reasoning_effort": "high", "num_timesteps": STEPS}  # fmt: skip
    message = live.post("/v1/chat/completions", wanted).json()["choices"][0]["message"]
    assert message["reasoning_content"]
    assert "<think>" not in message["reasoning_content"]
    events = events_of(live.post("/v1/chat/completions", {**wanted, "stream": True}).text)
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    thought = "".join(delta.get("reasoning_content", "") for delta in deltas)
    assert message["reasoning_content"] in thought


def test_an_aspect_ratio_is_a_size(live):
    wanted = {"messages": [{"role": "user", "content": "a ring"}], "modalities": ["image"], "num_timesteps": STEPS}
    answer = live.post("/v1/chat/completions", {**wanted, "image_config": {"aspect_ratio": "2:1"}})
    url = answer.json()["choices"][0]["message"]["images"][0]["image_url"]["url"]
    assert opened(url).size == (64, 32)
    refused = live.post("/v1/chat/completions", {**wanted, "image_config": {"image_size": "4K"}})
    assert refused.status_code == 400


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "type is 'audio'"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role is 'robot'"),
        ({"messages": [{"role": "user", "content": ""}]}, "no text and no picture"),
        ({"modalities": ["audio"]}, "modalities is"),
        ({"max_tokens": 100_000}, "allows 8193"),
    ],
)
def test_a_mistake_is_a_400_that_says_what_is_expected(live, circle, wrong, words):
    answer = live.post("/v1/chat/completions", {**asking(circle), **wrong})
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]

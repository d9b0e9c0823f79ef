"""The official openai package as a client of a live server."""

from __future__ import annotations

import base64

import openai
import pytest
from live_server import STEPS, data_url, opened

FEW = {"num_timesteps": STEPS, "seed": 1}


@pytest.fixture(scope="module")
def client(live):
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_it_draws(client):
    made = client.images.generate(model="bagel-nano", prompt="a red ring", size="64x32", n=2, extra_body=FEW)  # type: ignore[arg-type]
    assert [opened(one.b64_json).size for one in made.data] == [(64, 32)] * 2
    assert made.usage.output_tokens == 16
    assert made.size == "64x32"


def test_it_edits_one_picture_and_several(client, circle):
    one = client.images.edit(model="bagel-nano", image=("a.png", circle), prompt="make it green", extra_body=FEW)
    two = client.images.edit(
        model="bagel-nano", image=[("a.png", circle), ("b.png", circle)], prompt="both", extra_body=FEW
    )
    assert opened(one.data[0].b64_json).size == opened(two.data[0].b64_json).size == (64, 64)


def test_it_streams_a_picture(client):
    events = client.images.generate(
        model="bagel-nano", prompt="a ring", stream=True, partial_images=2, extra_body={"num_timesteps": 9}
    )
    found = list(events)
    assert [type(one).__name__ for one in found] == ["ImageGenPartialImageEvent"] * 2 + ["ImageGenCompletedEvent"]
    assert [one.partial_image_index for one in found[:2]] == [0, 1]
    assert found[2].usage.total_tokens > 0


def test_it_streams_an_edit(client, circle):
    events = client.images.edit(
        model="bagel-nano", image=("a.png", circle), prompt="make it green", stream=True, extra_body=FEW
    )
    assert [one.type for one in events] == ["image_edit.completed"]


def test_it_chats_about_a_picture(client, circle, nano):
    parts = [{"type": "text", "text": "what colour is the circle?"},
             {"type": "image_url", "image_url": {"url": data_url(circle)}}]  # fmt: skip
    talk = [{"role": "user", "content": parts}]
    whole = client.chat.completions.create(model="bagel-nano", messages=talk, max_tokens=20)
    assert whole.choices[0].message.content == nano.ask("what colour is the circle?", circle).text
    pieces = client.chat.completions.create(model="bagel-nano", messages=talk, max_tokens=20, stream=True)
    text = "".join(choice.delta.content or "" for piece in pieces for choice in piece.choices)
    assert text == whole.choices[0].message.content


def test_it_gets_a_picture_in_a_chat(client):
    made = client.chat.completions.create(
        model="bagel-nano",
        messages=[{"role": "user", "content": "a ring"}],
        extra_body={"modalities": ["image"], **FEW},
    )
    url = made.choices[0].message.images[0]["image_url"]["url"]
    assert base64.b64decode(url.partition(",")[2])[:4] == b"\x89PNG"


def test_it_raises_its_own_errors(client, nano):
    with pytest.raises(openai.BadRequestError, match="nearest is height 32, width 48") as refused:
        client.images.generate(model="bagel-nano", prompt="a ring", size="50x30")
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert [one.id for one in client.models.list()] == ["bagel-nano"]


def test_an_error_in_a_stream_is_raised_too(nano):
    from live_server import Lent, serving

    from bagel_rt.errors import EngineError

    class Failing(Lent):
        def stream(self, *args, **kwargs):
            yield from list(self._bagel.stream(*args, **kwargs))[:1]
            raise EngineError("planted: the engine fell over")

    with serving(lambda: Failing(nano)) as live:
        client = openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.APIError, match="fell over"):
            list(client.images.generate(model="m", prompt="a ring", stream=True, extra_body=FEW))

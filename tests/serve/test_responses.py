"""POST /v1/responses, with the official openai package."""

from __future__ import annotations

import openai
import pytest
from live_server import STEPS, data_url, opened

FEW = {"num_timesteps": STEPS, "seed": 1}
TOOL = [{"type": "image_generation", "size": "64x64", "partial_images": 2}]


@pytest.fixture(scope="module")
def client(live):
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def asking(circle: bytes, text: str):
    parts = [{"type": "input_text", "text": text}, {"type": "input_image", "image_url": data_url(circle)}]
    return [{"role": "user", "content": parts}]


def test_a_text_is_the_one_that_the_library_writes(client, nano, circle):
    answer = client.responses.create(model="bagel-nano", input=asking(circle, "what colour is the circle?"))
    assert answer.output_text == nano.ask("what colour is the circle?", circle).text
    assert answer.status == "completed"
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_a_picture_is_the_one_that_the_library_draws(client, nano):
    answer = client.responses.create(model="bagel-nano", input="a red ring", tools=TOOL, extra_body=FEW)
    drawn = opened(answer.output[0].result)
    assert answer.output[0].type == "image_generation_call"
    assert drawn.convert("RGB").tobytes() == nano.generate("a red ring", **FEW).image.tobytes()


def test_a_later_response_goes_on_in_the_kept_session(client, nano, circle):
    first = client.responses.create(model="m", input=asking(circle, "what colour is the circle?"))
    second = client.responses.create(
        model="m", input="make the circle green", tools=TOOL, previous_response_id=first.id, extra_body=FEW
    )
    third = client.responses.create(model="m", input="what colour is the circle?", previous_response_id=second.id)
    assert second.usage.input_tokens_details.cached_tokens > 30
    with nano.session() as same:
        same.add_image(circle)
        same.add_text("what colour is the circle?")
        assert same.generate_text().text == first.output_text
        same.add_text("make the circle green")
        same.add_image(opened(second.output[0].result))
        same.add_text("what colour is the circle?")
        assert same.generate_text().text == third.output_text
    again = client.responses.create(model="m", input="what colour is the circle?", previous_response_id=first.id)
    assert again.output_text == first.output_text


def test_a_streamed_text_comes_in_openais_events(client, circle):
    wanted = asking(circle, "what colour is the circle?")
    events = list(client.responses.create(model="m", input=wanted, stream=True))
    assert [one.sequence_number for one in events] == list(range(len(events)))
    kinds = [one.type for one in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                         "response.content_part.added"]  # fmt: skip
    assert kinds[-1] == "response.completed"
    text = "".join(one.delta for one in events if one.type == "response.output_text.delta")
    assert events[-1].response.output_text == text != ""


def test_a_streamed_picture_comes_with_previews(client):
    events = list(
        client.responses.create(model="m", input="a red ring", tools=TOOL, stream=True, extra_body={"num_timesteps": 9})
    )
    kinds = [one.type for one in events]
    assert kinds.count("response.image_generation_call.partial_image") == 2
    assert opened(events[-1].response.output[0].result).size == (64, 64)


def test_thinking_is_an_item_of_its_own(client):
    answer = client.responses.create(
        model="m", input="as many triangles as a car has wheels", tools=TOOL, reasoning={"effort": "high"},
        extra_body={**FEW, "max_think_tokens": 40},
    )  # fmt: skip
    assert [one.type for one in answer.output] == ["reasoning", "image_generation_call"]
    assert answer.output[1].revised_prompt == answer.output[0].content[0].text


def test_what_is_not_stored_cannot_be_gone_on_from(client, live):
    answer = client.responses.create(model="m", input="a red ring", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="m", input="and now?", previous_response_id=answer.id)
    kept = client.responses.create(model="m", input="a red ring")
    client.responses.delete(kept.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="m", input="and now?", previous_response_id=kept.id)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"input": []}, "no text and no picture"),
        ({"input": 3}, "input is 3"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"input": [{"type": "function_call"}]}, "function_call"),
        ({"tools": TOOL, "num_timesteps": 1}, "num_timesteps is 1"),
        ({"tools": [{"type": "image_generation", "size": "33x33"}]}, "the nearest"),
    ],
)
def test_a_mistake_is_a_400(live, wrong, words):
    answer = live.post("/v1/responses", {"input": "a red ring", **wrong})
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]

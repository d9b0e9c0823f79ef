"""POST /generate as M*'s clients send it."""

from __future__ import annotations

import base64
import json

import pytest
from live_server import opened

QUESTION = "what colour is the circle?"


def sent(live, circle=None, **fields):
    files = {} if circle is None else {"files": ("a.png", circle, "image/png")}
    fields = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in fields.items()}
    return live.http.post("/generate", data=fields, files=files or {"none": ("", b"")})


def text_of(chunks) -> str:
    return "".join(base64.b64decode(one["data"]).decode() for one in chunks)


def test_a_question_is_answered_by_modality(live, circle, nano):
    answer = sent(live, circle, text=QUESTION, streaming="false", request_id="r1").json()
    assert answer["request_id"] == "r1"
    assert text_of(answer["outputs"]["text"]) == nano.ask(QUESTION, circle).text


def test_lines_come_while_it_is_written_unless_that_is_not_wanted(live, circle, nano):
    answer = sent(live, circle, text=QUESTION, input_modalities="image,text")
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    chunks = [json.loads(line) for line in answer.text.splitlines()]
    assert {one["modality"] for one in chunks} == {"text"}
    assert text_of(chunks) == nano.ask(QUESTION, circle).text


def test_a_picture_is_drawn_with_the_models_own_arguments(live, nano):
    kwargs = {"seed": 3, "num_timesteps": 5, "height": 32, "width": 64}
    answer = sent(live, text="a red ring", output_modalities="image", streaming="false", model_kwargs=kwargs).json()
    (chunk,) = answer["outputs"]["image"]
    assert chunk["metadata"] == {"width": 64, "height": 32, "seed": 3}
    expected = nano.generate("a red ring", **kwargs).image
    assert opened(chunk["data"]).convert("RGB").tobytes() == expected.tobytes()


def test_the_stated_order_is_the_order_in_which_it_is_read(live, circle, nano):
    import io

    from PIL import Image

    stated = {"text": "make the circle green", "output_modalities": "image", "input_modalities": "text,image"}
    answer = sent(live, circle, **stated, model_kwargs={"seed": 1, "num_timesteps": 5}, streaming="false").json()
    items = ["make the circle green", Image.open(io.BytesIO(circle))]
    expected = nano.interleave(items, "image", preset="notebook", seed=1, num_timesteps=5).image
    assert opened(answer["outputs"]["image"][0]["data"]).convert("RGB").tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "wrong, word",
    [({}, "nothing was sent"), ({"text": "x", "output_modalities": "audio"}, "output_modalities"),
     ({"text": "x", "input_modalities": "image,text"}, "input_modalities"),
     ({"text": "x", "model_kwargs": "{"}, "model_kwargs"), ({"text": "x", "streaming": "perhaps"}, "streaming")],
)  # fmt: skip
def test_what_cannot_be_is_refused(live, wrong, word):
    answer = sent(live, **wrong)
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]


def test_it_needs_the_key_as_the_other_routes_do(nano):
    from live_server import Lent, serving

    with serving(lambda: Lent(nano), keys=("sesame",)) as live:
        assert sent(live, text="x").status_code == 401

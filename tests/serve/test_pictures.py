"""POST /v1/images/generations and /v1/images/edits, on a live server."""

from __future__ import annotations

import io

import numpy as np
import pytest
from live_server import STEPS, data_url, events_of, opened
from PIL import Image

from bagel_rt.files.picture_records import record_in

DRAW = {"prompt": "a red circle", "seed": 3, "num_timesteps": STEPS}


def same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one.convert("RGB")), np.asarray(other.convert("RGB")))


def test_a_picture_is_the_one_that_the_library_draws(live, nano):
    answer = live.post("/v1/images/generations", DRAW).json()
    assert same(opened(answer["data"][0]["b64_json"]), nano.generate("a red circle", seed=3, num_timesteps=STEPS).image)
    assert (answer["size"], answer["output_format"], answer["data"][0]["seed"]) == ("64x64", "png", 3)


def test_an_edit_is_the_one_that_the_library_makes(live, nano, circle):
    form = {"prompt": "make the circle green", "seed": "3", "num_timesteps": str(STEPS)}
    answer = live.post("/v1/images/edits", data=form, files={"image": circle}).json()
    expected = nano.edit(circle, "make the circle green", seed=3, num_timesteps=STEPS).image
    assert same(opened(answer["data"][0]["b64_json"]), expected)
    given = {**DRAW, "prompt": form["prompt"], "images": [{"image_url": data_url(circle)}]}
    assert same(opened(live.post("/v1/images/edits", given).json()["data"][0]["b64_json"]), expected)


def test_several_pictures_are_sent_in_one_form_and_read_in_their_order(live, nano, circle):
    white = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(white, "PNG")
    files = [("image[]", circle), ("image[]", white.getvalue())]
    form = {"prompt": "put them together", "seed": "3", "num_timesteps": str(STEPS)}
    answer = live.post("/v1/images/edits", data=form, files=files).json()
    expected = nano.edit([circle, white.getvalue()], "put them together", seed=3, num_timesteps=STEPS)
    assert same(opened(answer["data"][0]["b64_json"]), expected.image)


def test_n_pictures_are_those_of_seeds_counted_up(live, nano):
    answer = live.post("/v1/images/generations", {**DRAW, "n": 2}).json()
    assert [one["seed"] for one in answer["data"]] == [3, 4]
    drawn = nano.generate("a red circle", seed=4, num_timesteps=STEPS).image
    assert same(opened(answer["data"][1]["b64_json"]), drawn)


def test_usage_counts_texts_pictures_and_what_is_drawn(live, circle):
    usage = live.post("/v1/images/generations", {**DRAW, "n": 2}).json()["usage"]
    assert usage["output_tokens_details"] == {"image_tokens": 32, "text_tokens": 0}
    assert usage["total_tokens"] == usage["input_tokens"] + 32
    edited = live.post("/v1/images/edits", {**DRAW, "images": [data_url(circle)]}).json()["usage"]
    assert edited["input_tokens_details"]["image_tokens"] > 16


@pytest.mark.parametrize("name, kind", [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_a_format_is_honoured_and_the_file_keeps_its_settings(live, name, kind):
    answer = live.post("/v1/images/generations", {**DRAW, "output_format": name, "output_compression": 20}).json()
    found = opened(answer["data"][0]["b64_json"])
    assert found.format == kind
    assert record_in(found)["prompt"] == "a red circle"
    assert record_in(found)["seed"] == 3


def test_a_size_is_honoured_or_refused_with_the_nearest_one(live):
    assert live.post("/v1/images/generations", {**DRAW, "size": "32x48"}).json()["size"] == "32x48"
    refused = live.post("/v1/images/generations", {**DRAW, "size": "33x48"})
    assert refused.status_code == 400
    assert "the nearest is height 48, width 32" in refused.json()["error"]["message"]


def test_a_url_is_a_picture_in_itself(live):
    answer = live.post("/v1/images/generations", {**DRAW, "response_format": "url"}).json()
    assert answer["data"][0]["url"].startswith("data:image/png;base64,")


def test_a_stream_sends_previews_that_sharpen_and_then_the_picture(live):
    wanted = {**DRAW, "num_timesteps": 13, "stream": True, "partial_images": 3, "progress": True}
    events = events_of(live.post("/v1/images/generations", wanted).text)
    kinds = [one["type"].rpartition(".")[2] for one in events]
    assert [kind for kind in kinds if kind != "progress"] == ["partial_image"] * 3 + ["completed"]
    assert kinds.count("progress") > 12
    *previews, last = [np.asarray(opened(one["b64_json"]), int) for one in events if "b64_json" in one]
    far = [np.abs(one - last).mean() for one in previews]
    assert far[0] > far[2]


def test_an_edits_stream_has_events_of_its_own(live, circle):
    form = {"prompt": "make it green", "num_timesteps": str(STEPS), "stream": "true"}
    events = events_of(live.post("/v1/images/edits", data=form, files={"image": circle}).text)
    assert [one["type"] for one in events] == ["image_edit.completed"]


def test_a_plan_comes_back_as_the_revised_prompt(live):
    answer = live.post("/v1/images/generations", {**DRAW, "think": True, "max_think_tokens": 40}).json()
    assert answer["data"][0]["revised_prompt"]
    assert answer["usage"]["output_tokens_details"]["text_tokens"] > 0
    assert live.post("/v1/images/generations", DRAW).json()["data"][0]["revised_prompt"] is None


def masked(circle: bytes, alpha: bool) -> bytes:
    """The left half is to be drawn anew: transparent, or white."""
    left = np.zeros((64, 64), np.uint8)
    left[:, :32] = 255
    mask = Image.fromarray(left)
    if alpha:
        picture = Image.open(io.BytesIO(circle)).convert("RGBA")
        picture.putalpha(Image.fromarray(255 - left))
        mask = picture
    mask.save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("field, alpha", [("mask", True), ("mask", False), ("mask_image", False)])
def test_masks_of_both_conventions_keep_every_other_pixel(live, circle, field, alpha):
    form = {"prompt": "make the circle green", "num_timesteps": "8", "seed": "1"}
    files = {"image": circle, field: masked(circle, alpha)}
    answer = live.post("/v1/images/edits", data=form, files=files)
    drawn, before = (np.asarray(one.convert("RGB"), int) for one in (opened(answer.json()["data"][0]["b64_json"]),
                                                                     Image.open(io.BytesIO(circle))))  # fmt: skip
    assert np.array_equal(drawn[:, 32:], before[:, 32:])
    assert not np.array_equal(drawn[:, :32], before[:, :32])


def test_a_mask_is_of_the_first_of_several_pictures(live, circle):
    Image.new("RGB", (64, 64), "blue").save(stream := io.BytesIO(), "PNG")
    files = [("image[]", circle), ("image[]", stream.getvalue()), ("mask", masked(circle, True))]
    answer = live.post("/v1/images/edits", data={"prompt": "both", "num_timesteps": str(STEPS)}, files=files)
    drawn = np.asarray(opened(answer.json()["data"][0]["b64_json"]).convert("RGB"))
    assert np.array_equal(drawn[:, 32:], np.asarray(Image.open(io.BytesIO(circle)).convert("RGB"))[:, 32:])


def test_mask_image_is_white_even_where_the_file_has_transparency(live, circle):
    """vLLM-Omni's convention: all of this mask is black, whatever is transparent in it."""
    black = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    black.save(stream := io.BytesIO(), "PNG")
    form = {"prompt": "make it green", "num_timesteps": str(STEPS)}
    refused = live.post("/v1/images/edits", data=form, files={"image": circle, "mask_image": stream.getvalue()})
    assert "no pixel is white" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"prompt": 3}, "prompt must be a str"),
        ({"num_timesteps": 1}, "num_timesteps is 1"),
        ({"preset": "gedit"}, "preset gedit is for edit"),
        ({"output_format": "gif"}, "output_format is 'gif'"),
        ({"background": "transparent"}, "opaque"),
        ({"seed": [1, 2]}, "seed is [1, 2]"),
        ({"n": 11}, "n is 11; an integer of 10 or less"),
        ({"prompt": "half \ud800 a character"}, "half of a character"),
        ({"size": "16000x16000"}, "pixels"),
    ],
)
def test_a_mistake_is_a_400_that_says_what_is_expected(live, wrong, words):
    import json

    text = json.dumps({**DRAW, **wrong})
    answer = live.post("/v1/images/generations", content=text)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert live.rests()


def test_the_field_of_a_mistake_is_named(live):
    error = live.post("/v1/images/generations", {**DRAW, "cfg_text_scale": "much"}).json()["error"]
    assert error["param"] == "cfg_text_scale"


def test_an_edit_without_a_picture_is_refused(live):
    assert "no picture was sent" in live.post("/v1/images/edits", DRAW).json()["error"]["message"]

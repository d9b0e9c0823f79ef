"""Requests as other servers' clients send them, and the options that they mean here."""

from __future__ import annotations

import pytest

from bagel_rt.errors import InputError
from bagel_rt.options import defaults
from bagel_rt.options.defaults import with_values
from bagel_rt.serve import chat, images, names
from bagel_rt.serve.asking import IMAGE, TEXT, understood, unwrapped
from bagel_rt.serve.failures import ApiError
from bagel_rt.serve.messages import items_of
from bagel_rt.serve.pictures_in import PictureReader
from bagel_rt.serve.settings import ServeSettings

USER = [{"role": "user", "content": "a cat"}]
PICTURES = {  # the row, a request of its client, and the options of ours that it asks for
    "size": ({"model": "gpt-image-1", "prompt": "a cat", "size": "512x256", "quality": "auto", "moderation": "low"},
             {"width": 512, "height": 256}),
    "num_inference_steps": ({"prompt": "a cat", "num_inference_steps": 25, "extra_params": {"cfg_text_scale": 5.0}},
                            {"num_timesteps": 25, "cfg_text_scale": 5.0}),
    "guidance_scale": ({"prompt": "a cat", "guidance_scale": 4.5, "seed": 7}, {"cfg_text_scale": 4.5, "seed": 7}),
    "true_cfg_scale": ({"prompt": "a cat", "guidance_scale": 4.0, "true_cfg_scale": 1.5},
                       {"cfg_text_scale": 4.0, "cfg_img_scale": 1.5}),
    "flow_shift": ({"prompt": "a cat", "flow_shift": 2.0, "negative_prompt": "dogs"},
                   {"timestep_shift": 2.0, "negative_prompt": "dogs"}),
    "enable_teacache": ({"prompt": "a cat", "enable_teacache": True}, {"step_cache": "easycache"}),
    "background": ({"prompt": "a cat", "background": "opaque"}, {}),
    "reasoning_effort": ({"messages": USER, "reasoning_effort": "none"}, {"think": False}),
    "reasoning": ({"messages": USER, "reasoning": {"effort": "medium"}}, {"think": True}),
    "chat_template_kwargs": ({"messages": USER, "chat_template_kwargs": {"enable_thinking": True}}, {"think": True}),
}  # fmt: skip
TEXTS = {
    "max_tokens": ({"messages": USER, "max_tokens": 16}, {"max_tokens": 17}),
    "max_completion_tokens": ({"messages": USER, "max_completion_tokens": 16}, {"max_tokens": 17}),
    "max_output_tokens": ({"input": "a cat", "max_output_tokens": 16}, {"max_tokens": 17}),
    "temperature": ({"messages": USER, "temperature": 0.7, "top_p": 1},
                    {"do_sample": True, "text_temperature": 0.7}),
    "stop": ({"messages": USER, "stop": "END"}, {"stop": "END"}),
    "top_p": ({"messages": USER, "top_p": 0.9}, {"top_p": 0.9, "do_sample": True, "text_temperature": 1.0}),
    "top_k": ({"messages": USER, "temperature": 0.5, "top_k": 20},
              {"top_k": 20, "do_sample": True, "text_temperature": 0.5}),
    "reasoning_effort": ({"messages": USER, "reasoning_effort": "low"}, {"think": True}),
    "reasoning": ({"input": "a cat", "reasoning": {"effort": "none"}}, {"think": False}),
    "chat_template_kwargs": ({"messages": USER, "chat_template_kwargs": {"enable_thinking": False}}, {"think": False}),
}  # fmt: skip
OWN = (*images.OWN, *chat.OWN, "input")


def options(body, kind):
    return understood(body, OWN, kind, ServeSettings(strict=True)).options


@pytest.mark.parametrize("row", names.PICTURES, ids=lambda row: row.name)
def test_a_clients_request_for_a_picture_means_our_options(row):
    body, expected = PICTURES[row.name]
    assert options(body, IMAGE) == expected
    with_values(defaults.EDIT, expected)


@pytest.mark.parametrize("row", names.TEXTS, ids=lambda row: row.name)
def test_a_clients_request_for_a_text_means_our_options(row):
    body, expected = TEXTS[row.name]
    assert options(body, TEXT) == expected
    with_values(defaults.ANSWER, expected)


def test_true_cfg_scale_alone_is_the_texts():
    assert options({"prompt": "a cat", "true_cfg_scale": 4.0}, IMAGE) == {"cfg_text_scale": 4.0}


def test_temperature_zero_is_the_likeliest_token():
    assert options({"messages": USER, "temperature": 0}, TEXT) == {"do_sample": False}


def test_vllm_omnis_chat_may_hold_its_keys_flat_or_under_a_literal_extra_body():
    keys = {"cfg_text_scale": 5.0, "cfg_img_scale": 1.5, "cfg_interval": [0.4, 1.0], "cfg_renorm_type": "global",
            "cfg_renorm_min": 0.0, "negative_prompt": "dogs", "think": True, "max_think_tokens": 100,
            "do_sample": False, "text_temperature": 0.3, "timestep_shift": 3.0, "height": 512, "width": 512, "seed": 1,
            "num_inference_steps": 30}  # fmt: skip
    meant = {**keys, "num_timesteps": 30}
    del meant["num_inference_steps"]
    talk = {"messages": USER, "modalities": ["image"]}
    assert options({**talk, **keys}, IMAGE) == options({**talk, "extra_body": keys}, IMAGE) == meant


def test_what_stands_flat_counts_more_than_what_is_wrapped():
    assert options({"seed": 1, "extra_body": {"seed": 2}}, IMAGE) == {"seed": 1}


def test_unknown_keys_are_named_and_only_refused_when_strict():
    body = {"prompt": "a cat", "num_timestep": 3, "lora": {"name": "x"}}
    found = understood(body, OWN, IMAGE, ServeSettings())
    assert found.headers == {"X-Bagel-Warning": "unknown, not used: num_timestep, lora"}
    with pytest.raises(ApiError, match="did you mean num_timesteps"):
        options(body, IMAGE)


def test_a_warning_cannot_break_out_of_its_header():
    found = understood({"a\r\nSet-Cookie: x": 1, "ü\ud800": 2}, OWN, IMAGE, ServeSettings())
    text = found.headers["X-Bagel-Warning"]
    assert text.isascii()
    assert "\n" not in text
    assert "\r" not in text
    ends = understood({"a ": 1}, OWN, IMAGE, ServeSettings()).headers["X-Bagel-Warning"]
    assert ends == ends.strip()  # h11 refuses a value that ends with a space


def test_keys_that_ask_for_nothing_are_not_remarked_on():
    body = {"prompt": "a cat", "user": "u1", "stop": [], "frequency_penalty": 0, "tools": [], "lora": None}
    assert understood(body, OWN, IMAGE, ServeSettings()).headers == {}
    assert understood({"frequency_penalty": 1}, OWN, TEXT, ServeSettings()).unknown == ("frequency_penalty",)


@pytest.mark.parametrize(
    "sent",
    [
        "<|im_start|>a cat<|im_end|>",
        "<|fim_middle|><|im_start|>a cat<|im_end|>",
        "a cat",
        "<|im_start|>a cat<|im_end|>\n",
    ],
)
def test_wrappers_that_vllm_omnis_clients_send_are_taken_off(sent):
    assert unwrapped(sent) == "a cat"


def test_a_text_without_wrappers_is_left_as_it_is():
    assert unwrapped(" a <|im_end|> cat ") == " a <|im_end|> cat "


def test_vllm_omnis_modalities_ask_for_a_picture():
    assert chat.draws_by(["img2img"])
    assert chat.draws_by(["text2img"])
    assert not chat.draws_by(["img2text"])
    assert not chat.draws_by(None)


def test_the_pictures_of_a_message_with_one_text_come_first_and_other_orders_are_kept(circle):
    from live_server import data_url

    picture = {"type": "image_url", "image_url": {"url": data_url(circle)}}
    one, two = {"type": "text", "text": "one"}, {"type": "text", "text": "two"}
    kinds = [type(item) is str for item in read([one, picture])]
    assert kinds == [False, True]
    assert [type(item) is str for item in read([one, picture, two])] == [True, False, True]


def read(parts):
    return items_of([{"role": "user", "content": parts}], PictureReader(ServeSettings()))


@pytest.mark.parametrize(
    "body",
    [{"size": "big"}, {"size": 512}, {"extra_body": 3}, {"reasoning": "high"}, {"enable_teacache": "yes"},
     {"reasoning_effort": 3}, {"background": "transparent"}],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused(body):
    with pytest.raises((ApiError, InputError)):
        options(body, IMAGE)

"""One table of the names that other servers' clients send, and what they are here.

A row says which of our options a foreign name sets, for whose clients, and by which rule. docs/serving.md is made from
it, and every row has a test with a request as that client sends it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bagel_rt.options import checks
from bagel_rt.serve.failures import refused

Values = Mapping[str, Any]
Read = Callable[[Any, Values], dict[str, Any]]  # (the name's value, all values of the request) -> options of ours
EFFORTLESS = ("none", "minimal")
SIDES = re.compile(r"(\d{1,5})\s*[xX]\s*(\d{1,5})")


@dataclass(frozen=True)
class Row:
    """A foreign name, its clients, and in words what it does here."""

    name: str
    clients: str
    rule: str
    read: Read


def same(ours: str) -> Read:
    """A foreign name whose value is the value of an option of ours."""
    return lambda value, _: {ours: value}


def _size(value: Any, _: Values) -> dict[str, Any]:
    if value == "auto":
        return {}
    found = SIDES.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise refused(f"size is {checks.shown(value)}; WIDTHxHEIGHT, as 512x512, or auto is expected", "size")
    return {"width": int(found[1]), "height": int(found[2])}


def _true_cfg_scale(value: Any, values: Values) -> dict[str, Any]:
    beside = any(values.get(name) is not None for name in ("guidance_scale", "cfg_text_scale"))
    return {"cfg_img_scale" if beside else "cfg_text_scale": value}


def _teacache(value: Any, _: Values) -> dict[str, Any]:
    return {"step_cache": "easycache"} if checks.flag("enable_teacache", value) else {}


def _effort(value: Any, _: Values) -> dict[str, Any]:
    return {"think": checks.text("reasoning_effort", value) not in EFFORTLESS}


def _reasoning(value: Any, _: Values) -> dict[str, Any]:
    given = _mapping("reasoning", value)
    if isinstance(given.get("enabled"), bool):
        return {"think": given["enabled"]}
    return {} if given.get("effort") is None else _effort(given["effort"], {})


def _template(value: Any, _: Values) -> dict[str, Any]:
    given = _mapping("chat_template_kwargs", value)
    found = next((given[key] for key in ("enable_thinking", "thinking") if key in given), None)
    return {} if found is None else {"think": found}


def _temperature(value: Any, _: Values) -> dict[str, Any]:
    value = checks.number("temperature", value, low=0.0)
    return {"do_sample": True, "text_temperature": value} if value > 0 else {"do_sample": False}


def _sampled_among(name: str) -> Read:
    def read(value: Any, values: Values) -> dict[str, Any]:
        if (name == "top_p" and value == 1) or (name == "top_k" and value in (-1, 0)):
            return {}
        silent = all(values.get(other) is None for other in ("temperature", "text_temperature", "do_sample"))
        return {name: value, **({"do_sample": True, "text_temperature": 1.0} if silent else {})}

    return read


def _tokens(name: str) -> Read:
    return lambda value, _: {"max_tokens": checks.whole(name, value, least=1, most=10**9) + 1}


def _background(value: Any, _: Values) -> dict[str, Any]:
    if value not in ("auto", "opaque"):
        raise refused(
            f"background is {checks.shown(value)}; pictures are opaque: opaque or auto is expected", "background"
        )
    return {}


def _nothing(value: Any, _: Values) -> dict[str, Any]:
    return {}


def _mapping(name: str, value: Any) -> Values:
    if not isinstance(value, Mapping):
        raise refused(f"{name} is {checks.shown(value)}; an object is expected", name)
    return value


THINKING = (
    Row("reasoning_effort", "OpenAI, SGLang", "think, unless it is none or minimal", _effort),
    Row("reasoning", "OpenAI (responses), OpenRouter", "think, by its effort or enabled", _reasoning),
    Row("chat_template_kwargs", "SGLang, vLLM", "think, by its enable_thinking", _template),
)
PICTURES = (
    Row("size", "OpenAI", "width and height; auto: an edit's last picture's, else the model's", _size),
    Row("num_inference_steps", "vLLM-Omni, SGLang", "num_timesteps, the same number, as there", same("num_timesteps")),
    Row("guidance_scale", "vLLM-Omni, SGLang", "cfg_text_scale", same("cfg_text_scale")),
    Row(
        "true_cfg_scale",
        "vLLM-Omni, SGLang",
        "beside guidance_scale or cfg_text_scale: cfg_img_scale; alone: cfg_text_scale",
        _true_cfg_scale,
    ),
    Row("flow_shift", "vLLM-Omni, SGLang", "timestep_shift", same("timestep_shift")),
    Row("enable_teacache", "SGLang", "step_cache easycache", _teacache),
    Row("background", "OpenAI", "opaque or auto; transparent is refused", _background),
    *THINKING,
)
TEXTS = (
    Row(
        "max_tokens",
        "OpenAI",
        "tokens that are written (max_tokens in Python counts a start token, too)",
        _tokens("max_tokens"),
    ),
    Row("max_completion_tokens", "OpenAI, SGLang", "as max_tokens", _tokens("max_completion_tokens")),
    Row("max_output_tokens", "OpenAI (responses)", "as max_tokens", _tokens("max_output_tokens")),
    Row("temperature", "OpenAI", "above 0: do_sample with this text_temperature; 0: the likeliest token", _temperature),
    Row("stop", "OpenAI", "a text, or a list of them, at which the answer ends, without it", same("stop")),
    Row("top_p", "OpenAI", "below 1: samples, at temperature 1 where none is given", _sampled_among("top_p")),
    Row(
        "top_k", "vLLM-Omni, SGLang", "above 0: samples, at temperature 1 where none is given", _sampled_among("top_k")
    ),
    *THINKING,
)
OPENED = ("extra_body", "extra_params", "model_kwargs")  # their keys count as if they stood beside the others
QUIET = (  # without effect here, and nothing is missing without it
    "user", "safety_identifier", "moderation", "metadata", "store", "service_tier", "stream_options", "request_id",
    "prompt_cache_key", "verbosity", "prediction", "parallel_tool_calls", "truncation", "include", "background_mode",
)  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {  # without effect where the value asks for nothing
    "quality": ("auto", "standard"),
    "input_fidelity": ("low",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logprobs": (False,),
    "logit_bias": ({},),
    "stop": ([],),
    "tools": ([],),
    "tool_choice": ("auto", "none"),
    "response_format": ({"type": "text"},),
    "text": ({"format": {"type": "text"}}, {}),
    "audio": ({},),
}

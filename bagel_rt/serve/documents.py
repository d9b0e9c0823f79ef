"""The OpenAPI document's parts: bodies of requests, made from the options, the table of names and a few words here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bagel_rt.options import defaults
from bagel_rt.options.fields import options_of
from bagel_rt.options.presets import PRESETS
from bagel_rt.serve import names
from bagel_rt.serve.asking import ARRAYS
from bagel_rt.styles import tables
from bagel_rt.styles.files import BUILT_IN

Schema = dict[str, Any]
KINDS: dict[str, Schema] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "str": {"type": "string"},
    "tuple[str, ...]": {"type": "array", "items": {"type": "string"}},
    "str | Mapping[str, float]": {
        "anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": {"type": "number"}}]
    },
    "tuple[float, float]": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
}
FOREIGN: dict[str, Schema] = {
    "size": {"type": "string", "pattern": "^(auto|[0-9]+x[0-9]+)$"},
    "num_inference_steps": {"type": "integer"},
    "enable_teacache": {"type": "boolean"},
    "reasoning_effort": {"type": "string"},
    "reasoning": {"type": "object"},
    "chat_template_kwargs": {"type": "object"},
    "background": {"type": "string"},
    "max_tokens": {"type": "integer"},
    "max_completion_tokens": {"type": "integer"},
    "max_output_tokens": {"type": "integer"},
    "top_k": {"type": "integer"},
    "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 16}]},
}


def _with(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text}


def option_schemas(options: Any) -> dict[str, Schema]:
    """A property for every option that JSON can hold."""
    found = {}
    for one in options_of(options):
        if one.name in ARRAYS:
            continue
        kind = one.type.removesuffix(" | None")
        literal = kind.startswith("Literal[")
        schema = (
            {"type": "string", "enum": [w.strip(" \"'") for w in kind[8:-1].split(",")]} if literal else KINDS[kind]
        )
        found[one.name] = _with(schema, one.text)
    return found


def row_schemas(rows: Iterable[names.Row]) -> dict[str, Schema]:
    return {row.name: _with(FOREIGN.get(row.name, {"type": "number"}), row.rule) for row in rows}


def body(properties: dict[str, Schema], required: tuple[str, ...], kind: str = "application/json") -> Schema:
    """A request body as FastAPI's openapi_extra takes it."""
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


MODEL: Schema = {
    "type": "string",
    "description": "any name; the loaded model answers, as MODEL:ADAPTER with that adapter",
}
PRESET: Schema = {"type": "string", "enum": list(PRESETS), "description": "settings of an official script"}
IMAGE: Schema = {"type": "string", "description": "a data URL, base64, or the address of an allowed host"}
STREAM: Schema = {"type": "boolean", "description": "answer with server-sent events"}
SENT: dict[str, Schema] = {
    "n": {"type": "integer", "minimum": 1, "maximum": 10, "description": "how many"},
    "stream": STREAM,
    "partial_images": {"type": "integer", "minimum": 0, "maximum": 16, "description": "previews while it is drawn"},
    "progress": {"type": "boolean", "description": "in a stream: an event for every step, too"},
    "output_format": {"type": "string", "enum": ["png", "jpeg", "webp"]},
    "output_compression": {"type": "integer", "minimum": 0, "maximum": 100, "description": "of jpeg and webp"},
    "preset": PRESET,
}
ANSWER_FORM: Schema = {"type": "string", "enum": ["b64_json", "url"], "description": "url: a data URL"}
DRAWING = {
    "model": MODEL, "prompt": {"type": "string"}, **SENT, "response_format": ANSWER_FORM,
    **row_schemas(names.PICTURES), **option_schemas(defaults.GENERATE),
}  # fmt: skip
GENERATIONS = body(DRAWING, ("prompt",))
_URL = {"type": "object", "properties": {"image_url": IMAGE}}
_MASK = "of the first picture: what is transparent, or without transparency white, is drawn anew"
_WHITE = "vLLM-Omni's: what is white is drawn anew"
_EDIT_JSON = {
    **DRAWING,
    "images": {"type": "array", "items": {"anyOf": [IMAGE, _URL]}, "description": "pictures, read in this order"},
    "url": _with(IMAGE, "vLLM-Omni's: a picture, or a list of them"),
    "mask": _with({"anyOf": [IMAGE, _URL]}, _MASK),
    "mask_image": _with(IMAGE, _WHITE),
}
_EDIT_FORM = {
    **DRAWING,
    "image": {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "description": "pictures (image[], too)",
    },
    "mask": {"type": "string", "format": "binary", "description": _MASK},
    "mask_image": {"type": "string", "format": "binary", "description": _WHITE},
}
EDITS = body(_EDIT_JSON, ("prompt", "images"))
EDITS["requestBody"]["content"].update(
    body(_EDIT_FORM, ("prompt", "image"), "multipart/form-data")["requestBody"]["content"]
)
_PART: Schema = {"type": "object", "properties": {"type": {"type": "string"}, "text": {"type": "string"}}}
_CONTENT: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]}
_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "enum": ["system", "developer", "user", "assistant"]},
        "content": _CONTENT,
        "images": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["role"],
}
_MODALITIES = {
    "type": "array", "items": {"type": "string", "enum": ["text", "image"]}, "description": "with image it is drawn",
}  # fmt: skip
CHAT = body(
    {
        "model": MODEL, "messages": {"type": "array", "items": _MESSAGE, "minItems": 1}, "modalities": _MODALITIES,
        **SENT, "image_config": {"type": "object", "description": "aspect_ratio, image_size (OpenRouter)"},
        **option_schemas(defaults.GENERATE), **option_schemas(defaults.ANSWER),
        **row_schemas(names.PICTURES), **row_schemas(names.TEXTS),
    },
    ("messages",),
)  # fmt: skip
_ADAPTER = option_schemas(defaults.ANSWER)["adapter"]
REASON = body(
    {
        "model": MODEL, "prompt": {"type": "string"}, "images": {"type": "array", "items": IMAGE},
        "style": {"type": "string", "enum": list(BUILT_IN), "description": "left out: the model's own, else generic"},
        "max_pictures": {"type": "integer", "minimum": 0, "description": "the loop ends where one more is asked for"},
        "system": {"type": "string"}, "seed": {"type": "integer"}, "adapter": _ADAPTER,
        **{name: schema for name, schema in SENT.items() if name not in ("n", "preset")},
        **{name: schema for name, schema in option_schemas(defaults.GENERATE).items() if name in tables.IMAGE},
        **{name: schema for name, schema in option_schemas(defaults.ANSWER).items() if name in tables.TEXT},
    },
    ("prompt",),
)  # fmt: skip
_NAMED = {"type": "string", "description": "separated by commas: text, image"}
MSTAR = body(
    {
        "text": {"type": "string"},
        "files": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "pictures"},
        "input_modalities": _NAMED, "output_modalities": _NAMED,
        "streaming": {"type": "boolean", "description": "lines of JSON as they come; left out: true"},
        "model_kwargs": {"type": "string", "description": "JSON: options, under our names or foreign ones"},
        "request_id": {"type": "string"},
    },
    (),
    "multipart/form-data",
)  # fmt: skip
_THINK = {"type": ["string", "boolean", "null"], "description": "image: plan pictures; text: reason in answers"}
SESSION = body({"seed": {"type": "integer"}, "think": _THINK, "system": {"type": "string"}, "adapter": _ADAPTER}, ())
FORK = body({"seed": _with({"type": "integer"}, "random numbers that start afresh; left out: as in the first")}, ())
ROLLBACK = body({"turns": _with({"type": "integer", "minimum": 1}, "how many are taken back; left out: one")}, ())
_OUTPUT = {"type": "string", "enum": ["text", "image"], "description": "left out: what is said is only read"}
TURN = body(
    {
        "text": {"type": "string"}, "images": {"type": "array", "items": IMAGE}, "output": _OUTPUT,
        **{name: schema for name, schema in SENT.items() if name != "n"}, "mask": _with(IMAGE, _MASK),
        **option_schemas(defaults.INTERLEAVE), **option_schemas(defaults.ANSWER),
    },
    (),
)  # fmt: skip
_TOOL = {"type": "object", "properties": {"type": {"type": "string", "enum": ["image_generation"]}}}
_INPUT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}
RESPONSE = body(
    {
        "model": MODEL, "input": _INPUT, "instructions": {"type": "string"}, "stream": STREAM,
        "store": {"type": "boolean", "description": "false: nothing goes on from this answer"},
        "previous_response_id": {"type": "string", "description": "the answer that this one goes on from"},
        "tools": {"type": "array", "items": _TOOL, "description": "naming the tool asks for a picture"},
        **row_schemas(names.TEXTS), **option_schemas(defaults.ANSWER),
    },
    ("input",),
)  # fmt: skip
_ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type"],
        }
    },
    "required": ["error"],
}
_TOLD = {"application/json": {"schema": _ERROR}}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": _TOLD}
    for status, text in (
        (400, "what the caller can mend"),
        (401, "no API key"),
        (403, "another host"),
        (404, "not here"),
        (409, "in the middle of a turn"),
        (413, "too long"),
        (429, "the queue is full: Retry-After"),
        (503, "not ready, or out of memory: Retry-After"),
    )
}

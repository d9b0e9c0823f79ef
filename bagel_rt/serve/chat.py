"""POST /v1/chat/completions: texts and pictures in; text out, or a picture where `modalities` asks for one."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from bagel_rt.events import Done, TextPiece
from bagel_rt.options import checks
from bagel_rt.results import TextResult
from bagel_rt.serve import documents
from bagel_rt.serve.answers import EventStream, collected, sse
from bagel_rt.serve.asking import IMAGE, TEXT, Asked, understood
from bagel_rt.serve.checking import check_drawn, check_model, check_texts, check_written, preset_of
from bagel_rt.serve.drawing import Form, Picture, Preview, Words, drawn, form_of
from bagel_rt.serve.failures import refused
from bagel_rt.serve.hub import Hub
from bagel_rt.serve.messages import characters, items_of, with_system
from bagel_rt.serve.pictures_in import PictureReader
from bagel_rt.serve.receiving import json_body
from bagel_rt.serve.sizes import with_image_config
from bagel_rt.serve.thoughts import Thoughts, told_apart
from bagel_rt.serve.work import Job, Work

OWN = ("model", "messages", "n", "stream", "stream_options", "modalities", "preset", "partial_images", "progress",
       "output_format", "output_compression", "image_config", "tools", "tool_choice")  # fmt: skip
DRAWN = ("image", "text2img", "img2img")  # modalities that ask for a picture; the last two are vLLM-Omni's
MODALITIES = (*DRAWN, "text", "img2text", "text2text")


@dataclass(frozen=True)
class Talk:
    """A checked request of a chat."""

    asked: Asked
    draws: bool
    n: int
    preset: str
    form: Form
    stream: bool
    with_usage: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))


def routes(hub: Hub) -> APIRouter:
    """The route, for a hub."""
    router = APIRouter(tags=["chat"])

    @router.post("/v1/chat/completions", openapi_extra=documents.CHAT, responses=documents.ERRORS)
    async def completions(request: Request) -> Response:
        """Answer a conversation in words, or draw what it asks for."""
        talk = _talk(await json_body(request), hub)
        job, counted = hub.job(), {}
        await job.begin(lambda: _work(hub, talk, counted))
        if talk.stream:
            return EventStream(job, _events(hub, talk, job, counted), talk.asked.headers)
        made = await collected(request, job)
        return JSONResponse(_completion(hub, talk, made, counted["inputs"]), headers=talk.asked.headers)

    return router


def _talk(body: dict[str, Any], hub: Hub) -> Talk:
    draws = draws_by(body.get("modalities"))
    asked = check_model(hub, understood(body, OWN, IMAGE if draws else TEXT, hub.settings))
    own = asked.own
    check_tools(own)
    if characters(own.get("messages")) > hub.settings.max_text:
        check_texts(hub, " " * characters(own.get("messages")))
    if draws:
        asked.options.update(with_image_config(hub.bagel.manifest, own.get("image_config"), asked.options))
        check_drawn(hub, asked.options)
        checks.whole("seed", asked.options.get("seed"), least=None, optional=True)
    check_written(hub, asked.options)
    n = checks.whole("n", own.get("n", 1), least=1, most=hub.settings.max_pictures)
    options = own.get("stream_options") or {}
    return Talk(
        asked,
        draws,
        n,
        preset_of(own),
        form_of(own),
        checks.flag("stream", own.get("stream", False)),
        isinstance(options, dict) and options.get("include_usage") is True,
    )


def check_tools(own: dict[str, Any]) -> None:
    """Raise ApiError for tools that the model should choose among: it calls none."""
    if own.get("tools") and own.get("tool_choice") != "none":
        raise refused(
            'this model calls no tools; leave tools out, or answer in words with tool_choice "none". Pictures are asked'
            ' for by modalities: ["image"]',
            "tools",
            "unsupported_parameter",
        )


def draws_by(modalities: Any) -> bool:
    """Whether a request's modalities ask for a picture. Raises ApiError for others than are known."""
    if modalities is None:
        return False
    known = isinstance(modalities, list) and all(one in MODALITIES for one in modalities if isinstance(one, str))
    if not known or not all(isinstance(one, str) for one in modalities):
        raise refused(f"modalities is {checks.shown(modalities)}; a list of text, image is expected", "modalities")
    return any(one in DRAWN for one in modalities)


def _work(hub: Hub, talk: Talk, counted: dict[str, Any]) -> Work:
    """On a thread: the conversation's pictures are opened and the call is checked; then its work."""
    messages, options = with_system(talk.asked.own.get("messages"), talk.asked.options)
    items = items_of(messages, PictureReader(hub.settings))
    counted["inputs"] = hub.counter.inputs([*items, options.get("system", "")], talk.draws)
    if talk.draws:
        several = {"images": talk.n} if talk.n > 1 else {}
        return drawn(hub, hub.bagel.stream(items, preset=talk.preset, **several, **options), talk.form)
    if talk.n > 1 and "seed" in options:
        seeds = [checks.whole("seed", options["seed"], least=None) + i for i in range(talk.n)]
        streams = [hub.bagel.stream(items, "text", preset=talk.preset, **{**options, "seed": one}) for one in seeds]
    else:
        streams = [hub.bagel.stream(items, "text", preset=talk.preset, **options) for _ in range(talk.n)]
    return written(hub, streams)


def written(hub: Hub, streams: list[Any]) -> Work:
    """Answers one after another: Words of each, then its TextResult."""
    began = time.monotonic()
    for stream in streams:
        with closing(hub.watched(stream)) as events:
            for event in events:
                if isinstance(event, TextPiece):
                    hub.meters.tokens.inc()
                    if event.done == 1:
                        hub.meters.first_token.observe(time.monotonic() - began)
                    yield Words(event.stage, event.text)
                elif isinstance(event, Done):
                    yield event.result
                else:  # it waits for room: where a cancelled request ends
                    yield None


def _completion(hub: Hub, talk: Talk, made: list[Any], inputs: tuple[int, int]) -> dict[str, Any]:
    answers = [one for one in made if isinstance(one, TextResult | Picture)]
    return {
        **_head(hub, talk, "chat.completion"),
        "choices": [
            {"index": i, "message": _message(one, talk), "finish_reason": _reason(one, talk), "logprobs": None}
            for i, one in enumerate(answers)
        ],
        "usage": _usage(hub, inputs, answers),
    }


def _head(hub: Hub, talk: Talk, kind: str) -> dict[str, Any]:
    return {"id": talk.id, "object": kind, "created": talk.created, "model": hub.name}


def _message(answer: TextResult | Picture, talk: Talk) -> dict[str, Any]:
    if isinstance(answer, Picture):
        picture = _picture(answer, talk.form)
        message = {"role": "assistant", "content": [picture], "images": [{"index": 0, **picture}], "refusal": None}
        return {**message, "reasoning_content": answer.plan, "seed": answer.result.seed}
    thought, said = told_apart(answer.text)
    return {"role": "assistant", "content": said, "refusal": None, "reasoning_content": thought, "seed": answer.seed}


def _picture(answer: Picture, form: Form) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:{form.mime};base64,{answer.data}"}}


def _reason(answer: TextResult | Picture, talk: Talk) -> str:
    """length, where an answer has as many tokens as it was allowed."""
    most = talk.asked.options.get("max_tokens")
    return "length" if isinstance(answer, TextResult) and most and len(answer.token_ids) >= most else "stop"


def _usage(hub: Hub, inputs: tuple[int, int], answers: list[Any]) -> dict[str, Any]:
    written = sum(len(one.token_ids) - 1 for one in answers if isinstance(one, TextResult))
    pictures = [one.result for one in answers if isinstance(one, Picture)]
    drawn = sum(hub.counter.drawn(*one.image.size) + hub.counter.written(one.text or "") for one in pictures)
    return {
        "prompt_tokens": sum(inputs),
        "completion_tokens": written + drawn,
        "total_tokens": sum(inputs) + written + drawn,
    }


async def _events(hub: Hub, talk: Talk, job: Job, counted: dict[str, Any]) -> AsyncIterator[bytes]:
    """Chunks as OpenAI's. Pictures and previews stand in delta.images alone: clients add up the contents."""
    head = _head(hub, talk, "chat.completion.chunk")

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        return sse({**head, "choices": [{"index": index, "delta": delta, "finish_reason": reason}]})

    index, thoughts, answers = 0, Thoughts(), []
    yield chunk(0, {"role": "assistant", "content": ""})
    async for item in job:
        if isinstance(item, Words):
            for delta in _deltas(item, thoughts):
                yield chunk(index, delta)
        elif isinstance(item, Preview):
            url = f"data:{talk.form.mime};base64,{item.data}"
            partial = {"type": "image_url", "image_url": {"url": url}, "partial_image_index": item.index}
            yield chunk(item.picture, {"images": [partial]})
        elif isinstance(item, Picture):
            yield chunk(index, {"images": [{"index": 0, **_picture(item, talk.form)}]})
        if isinstance(item, TextResult | Picture):
            for delta in _deltas(Words("answering", ""), thoughts, last=True):
                yield chunk(index, delta)
            yield chunk(index, {}, _reason(item, talk))
            answers.append(item)
            index, thoughts = index + 1, Thoughts()
    if talk.with_usage:
        yield sse({**head, "choices": [], "usage": _usage(hub, counted["inputs"], answers)})
    yield sse("[DONE]")


def _deltas(words: Words, thoughts: Thoughts, last: bool = False) -> list[dict[str, Any]]:
    thought, said = thoughts.push(words.text, last)
    if words.stage == "thinking":  # of a picture: all of it is its plan
        thought, said = thought + said, ""
    return [{name: text} for name, text in (("reasoning_content", thought), ("content", said)) if text]

"""POST /v1/reason: thinking in words and pictures, as `bagel.reason` does it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import closing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from bagel_rt.conversation.reason import MAX_PICTURES
from bagel_rt.events import Done, Event
from bagel_rt.options import checks
from bagel_rt.results import ReasonResult, TextResult
from bagel_rt.serve import documents, names
from bagel_rt.serve.answers import EventStream, collected, sse
from bagel_rt.serve.asking import Asked, Kind, understood, unwrapped
from bagel_rt.serve.checking import check_drawn, check_model, check_texts, check_written
from bagel_rt.serve.drawing import Form, Picture, Preview, Progress, Words, drawn, form_of
from bagel_rt.serve.failures import refused
from bagel_rt.serve.hub import Hub
from bagel_rt.serve.pictures_in import PictureReader, as_list
from bagel_rt.serve.receiving import json_body
from bagel_rt.serve.usage import picture_usage
from bagel_rt.serve.work import Job, Work
from bagel_rt.styles import tables
from bagel_rt.styles.files import BUILT_IN

OWN = ("model", "prompt", "images", "style", "max_pictures", "system", "seed", "stream", "partial_images", "progress",
       "output_format", "output_compression")  # fmt: skip
TEXTS = tuple(row for row in names.TEXTS if row not in names.THINKING)
KIND = Kind((*names.PICTURES, *TEXTS), (*tables.TEXT, *tables.IMAGE, "adapter"))


def routes(hub: Hub) -> APIRouter:
    """The route, for a hub."""
    router = APIRouter(tags=["reasoning"])

    @router.post("/v1/reason", openapi_extra=documents.REASON, responses=documents.ERRORS)
    async def reason(request: Request) -> Response:
        """Think in texts and pictures, in turns, until there is an answer."""
        asked, form = _asked(await json_body(request), hub)
        job, counted = hub.job(), {}
        await job.begin(lambda: _work(hub, asked, form, counted))
        if asked.own.get("stream"):
            return EventStream(job, _events(hub, job, form, counted), asked.headers)
        made = await collected(request, job)
        return JSONResponse(_told(hub, made, form, counted["inputs"]), headers=asked.headers)

    return router


def _asked(body: dict[str, Any], hub: Hub) -> tuple[Asked, Form]:
    asked = check_model(hub, understood(body, OWN, KIND, hub.settings))
    own = asked.own
    checks.text("prompt", own.get("prompt"))
    checks.flag("stream", own.get("stream", False))
    check_texts(hub, own["prompt"], own.get("system"), asked.options.get("negative_prompt"))
    check_drawn(hub, asked.options)
    check_written(hub, asked.options)
    checks.whole("max_pictures", own.get("max_pictures", 0), least=0, most=hub.settings.max_pictures)
    style = own.get("style")
    if style is not None and style not in BUILT_IN:  # a path would be one of the server's own files
        raise refused(f"style is {checks.shown(style)}; allowed: {', '.join(BUILT_IN)}, or the model's own", "style")
    return asked, form_of(own)


def _work(hub: Hub, asked: Asked, form: Form, counted: dict[str, Any]) -> Work:
    """On a thread: pictures are opened and the call is checked; then its work."""
    reader, own = PictureReader(hub.settings), asked.own
    images = [reader.image(one, "images") for one in as_list(own.get("images"))]
    prompt = unwrapped(own["prompt"])
    counted["inputs"] = hub.counter.inputs([*images, prompt], draws=True)
    chosen = {name: own[name] for name in ("style", "system", "seed") if own.get(name) is not None}
    most = min(own.get("max_pictures", MAX_PICTURES), hub.settings.max_pictures)
    return reasoned(hub, hub.bagel.stream_reason(prompt, images, max_pictures=most, **chosen, **asked.options), form)


def reasoned(hub: Hub, events: Generator[Event, None, None], form: Form) -> Work:
    """Words, previews and pictures as they come, and at last the ReasonResult."""
    result: list[Any] = []

    def noted() -> Generator[Event, None, None]:
        with closing(events):
            for event in events:
                if isinstance(event, Done):
                    result.append(event.result)
                yield event

    yield from drawn(hub, noted(), form)
    yield from result


def _told(hub: Hub, made: list[Any], form: Form, inputs: tuple[int, int]) -> dict[str, Any]:
    """The whole answer: parts in their order, the answer, why it stopped."""
    result: ReasonResult = made[-1]
    pictures = iter([one for one in made if isinstance(one, Picture)])
    parts = [
        {"type": "text", "text": part.text, "seed": part.seed} if isinstance(part, TextResult)
        else image_part(next(pictures), form)
        for part in result.parts
    ]  # fmt: skip
    latents = sum(hub.counter.drawn(*one.image.size) for one in result.pictures)
    return {
        "object": "reason",
        "model": hub.name,
        "style": result.style,
        "parts": parts,
        "answer": result.answer,
        "stopped": result.stopped,
        "seed": result.seed,
        "failures": list(result.failures),
        "usage": picture_usage(inputs, latents, sum(len(one.token_ids) - 1 for one in result.texts)),
    }


def image_part(picture: Picture, form: Form) -> dict[str, Any]:
    """A picture among the parts of an answer."""
    seed = picture.result.seed
    return {"type": "image", "b64_json": picture.data, "output_format": form.format, "size": picture.size, "seed": seed}


async def _events(hub: Hub, job: Job, form: Form, counted: dict[str, Any]) -> AsyncIterator[bytes]:
    """`part` counts texts and pictures in their order."""
    made, part = [], -1
    async for one in job:
        made.append(one)
        if isinstance(one, Words):
            part += one.first
            if one.text:
                yield _event("text.delta", part=part, delta=one.text)
        elif isinstance(one, Preview):
            partial = {"b64_json": one.data, "partial_image_index": one.index, "size": one.size}
            yield _event("image.partial_image", part=part + 1, **partial)
        elif isinstance(one, Picture):
            part += 1
            yield _event("image", part=part, **image_part(one, form))
        elif isinstance(one, Progress) and form.progress:
            yield _event("progress", stage=one.stage, done=one.done, total=one.total)
    yield _event("completed", **_told(hub, made, form, counted["inputs"]))


def _event(kind: str, **values: Any) -> bytes:
    name = f"reason.{kind}"
    return sse({**values, "type": name}, name)

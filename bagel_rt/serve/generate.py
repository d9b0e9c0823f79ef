"""POST /generate, as clients of M* send it: a form; the answer by modality, or as lines of JSON while it is made."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from bagel_rt.options import checks
from bagel_rt.serve import documents
from bagel_rt.serve.answers import LineStream, collected, json_line
from bagel_rt.serve.asking import IMAGE, TEXT, Asked, understood, unwrapped
from bagel_rt.serve.chat import written
from bagel_rt.serve.checking import check_drawn, check_texts, check_written, preset_of
from bagel_rt.serve.drawing import Form, Picture, Words, drawn
from bagel_rt.serve.failures import refused
from bagel_rt.serve.hub import Hub
from bagel_rt.serve.pictures_in import PictureReader, as_list
from bagel_rt.serve.receiving import body_of
from bagel_rt.serve.work import Job, Work

OWN = ("text", "files", "input_modalities", "output_modalities", "streaming", "request_id", "preset")


@dataclass(frozen=True)
class Order:
    """A checked request. layout: what is read in which order, None: pictures before the text."""

    asked: Asked
    draws: bool
    text: str
    files: list[Any]
    layout: tuple[str, ...] | None
    streaming: bool
    id: str


def routes(hub: Hub) -> APIRouter:
    """The route, for a hub."""
    router = APIRouter(tags=["M*"])

    @router.post("/generate", openapi_extra=documents.MSTAR, responses=documents.ERRORS)
    async def generate(request: Request) -> Response:
        """Answer in words or draw, as M* is asked for it."""
        order = _order(await body_of(request, hub.settings.max_images), hub)
        job = hub.job()
        await job.begin(lambda: _work(hub, order))
        if order.streaming:
            return LineStream(job, _lines(job), order.asked.headers)
        outputs: dict[str, list[Any]] = {}
        for item in await collected(request, job):
            for name, chunk in _chunks(item):
                outputs.setdefault(name, []).append(chunk)
        return JSONResponse({"request_id": order.id, "outputs": outputs}, headers=order.asked.headers)

    return router


def _order(body: dict[str, Any], hub: Hub) -> Order:
    outputs = _modalities(body, "output_modalities") or ("text",)
    draws = "image" in outputs
    asked = understood(body, OWN, IMAGE if draws else TEXT, hub.settings)
    own = asked.own
    text = unwrapped(checks.text("text", own.get("text", "")))
    check_texts(hub, text, asked.options.get("negative_prompt"))
    check_drawn(hub, asked.options)
    check_written(hub, asked.options)
    checks.whole("seed", asked.options.get("seed"), least=None, optional=True)
    files = as_list(own.get("files"))
    if not text and not files:
        raise refused("nothing was sent: text, files or both are expected", "text")
    streaming = checks.flag("streaming", own.get("streaming", True))
    name = str(own.get("request_id") or secrets.token_hex(16))[:200]
    return Order(asked, draws, text, files, _layout(body, text, files), streaming, name)


def _modalities(body: dict[str, Any], name: str) -> tuple[str, ...]:
    """The names in a list that is separated by commas. Raises ApiError for others than text and image."""
    given = checks.text(name, body.get(name) or "")
    found = tuple(one.strip() for one in given.split(",") if one.strip())
    if any(one not in ("text", "image") for one in found):
        raise refused(f"{name} is {checks.shown(given)}; text and image are what this model reads and makes", name)
    return found


def _layout(body: dict[str, Any], text: str, files: list[Any]) -> tuple[str, ...] | None:
    """The stated order of what is read; a text that has no place in it comes last."""
    found = _modalities(body, "input_modalities")
    if not found:
        return None
    found = tuple(one for one in found if one == "image" or text)
    if found.count("image") != len(files) or found.count("text") > 1:
        raise refused(
            f"input_modalities names {found.count('image')} pictures and {found.count('text')} texts; {len(files)}"
            " pictures and one text were sent",
            "input_modalities",
        )
    return found if "text" in found or not text else (*found, "text")


def _work(hub: Hub, order: Order) -> Work:
    """On a thread: pictures are opened and the call is checked; then its work."""
    reader = PictureReader(hub.settings)
    images = [reader.image(one, "files") for one in order.files]
    layout = order.layout or ("image",) * len(images) + ("text",) * bool(order.text)
    left = iter(images)
    items = [next(left) if one == "image" else order.text for one in layout]
    preset, options = preset_of(order.asked.own), order.asked.options
    if order.draws:
        return drawn(hub, hub.bagel.stream(items, preset=preset, **options), Form())
    return written(hub, [hub.bagel.stream(items, "text", preset=preset, **options)])


def _chunks(item: Any) -> list[tuple[str, dict[str, Any]]]:
    """(modality, chunk) of a piece of what is made: words in UTF-8, a picture as PNG, both in base64."""
    if isinstance(item, Words) and item.text:
        return [("text", {"data": base64.b64encode(item.text.encode()).decode(), "metadata": {}})]
    if isinstance(item, Picture):
        size = item.result.image
        about = {"width": size.width, "height": size.height, "seed": item.result.seed}
        return [("image", {"data": item.data, "metadata": about})]
    return []


async def _lines(job: Job) -> AsyncIterator[bytes]:
    async for item in job:
        for name, chunk in _chunks(item):
            yield json_line({"modality": name, **chunk})

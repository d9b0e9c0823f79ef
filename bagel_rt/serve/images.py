"""POST /v1/images/generations and /v1/images/edits."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from bagel_rt.options import checks
from bagel_rt.serve import documents
from bagel_rt.serve.answers import EventStream, collected, sse
from bagel_rt.serve.asking import IMAGE, Asked, understood, unwrapped
from bagel_rt.serve.checking import check_drawn, check_model, check_texts, preset_of
from bagel_rt.serve.drawing import Form, Picture, Preview, Progress, drawn, form_of
from bagel_rt.serve.failures import refused
from bagel_rt.serve.hub import Hub
from bagel_rt.serve.pictures_in import PictureReader, as_list
from bagel_rt.serve.receiving import body_of
from bagel_rt.serve.usage import picture_usage
from bagel_rt.serve.work import Work

OWN = ("model", "prompt", "n", "stream", "partial_images", "progress", "response_format", "output_format",
       "output_compression", "preset")  # fmt: skip
PICTURES = ("image", "image[]", "images", "url", "mask", "mask_image")


@dataclass(frozen=True)
class Order:
    """A checked request for pictures."""

    asked: Asked
    prompt: str
    n: int
    preset: str
    form: Form
    stream: bool
    pictures: tuple[Any, ...] = ()


def routes(hub: Hub) -> APIRouter:
    """The two routes, for a hub."""
    router = APIRouter(tags=["pictures"])

    @router.post("/v1/images/generations", openapi_extra=documents.GENERATIONS, responses=documents.ERRORS)
    async def generations(request: Request) -> Response:
        """Draw pictures from a text."""
        order = _order(await body_of(request, 0), hub, ())
        return await _answer(request, hub, order, "image_generation")

    @router.post("/v1/images/edits", openapi_extra=documents.EDITS, responses=documents.ERRORS)
    async def edits(request: Request) -> Response:
        """Draw changed versions of a picture, or a picture of what is in several."""
        order = _order(await body_of(request, hub.settings.max_images), hub, PICTURES)
        if not order.pictures:
            raise refused("no picture was sent: an edit needs image (a file), images or url (a data URL)", "image")
        return await _answer(request, hub, order, "image_edit")

    return router


def _order(body: dict[str, Any], hub: Hub, pictures: tuple[str, ...]) -> Order:
    asked = understood(body, (*OWN, *pictures), IMAGE, hub.settings)
    own = asked.own
    prompt = unwrapped(checks.text("prompt", own.get("prompt")))
    n = checks.whole("n", own.get("n", 1), least=1, most=hub.settings.max_pictures)
    check_texts(hub, prompt, asked.options.get("negative_prompt"))
    check_drawn(hub, asked.options, n)
    checks.whole("seed", asked.options.get("seed"), least=None, optional=True)  # one, though the library takes several
    given = [one for key in PICTURES[:4] for one in as_list(own.get(key))]
    if len(given) > hub.settings.max_images:
        raise refused(f"{len(given)} pictures were sent; {hub.settings.max_images} are taken at most", "image")
    return Order(
        check_model(hub, asked),
        prompt,
        n,
        preset_of(own),
        form_of(own),
        checks.flag("stream", own.get("stream", False)),
        tuple(given),
    )


async def _answer(request: Request, hub: Hub, order: Order, name: str) -> Response:
    job, counted = hub.job(), {}
    await job.begin(lambda: _work(hub, order, counted))
    headers = order.asked.headers
    if order.stream:
        return EventStream(job, _events(hub, order, job, counted, name), headers)
    pictures = [item for item in await collected(request, job) if isinstance(item, Picture)]
    usage = _usage(hub, counted["inputs"], pictures)
    first = pictures[0]
    body = {
        "created": int(time.time()),
        "model": hub.name,
        "background": "opaque",
        "output_format": order.form.format,
        "size": first.size,
        "data": [_entry(picture, order.form) for picture in pictures],
        "usage": usage,
    }
    return JSONResponse(body, headers=headers)


def _work(hub: Hub, order: Order, counted: dict[str, Any]) -> Work:
    """On a thread: pictures are opened and the call is checked; then its work, which is not begun yet."""
    reader, own, options = PictureReader(hub.settings), order.asked.own, dict(order.asked.options)
    images = [reader.image(one, "image") for one in order.pictures]
    masks = [key for key in ("mask", "mask_image") if own.get(key) is not None]
    if masks:
        options["mask"] = reader.mask(own[masks[0]], masks[0], white=masks[0] == "mask_image")
        images = [*images[1:], images[0]]  # OpenAI's masks are of the first picture, the library's of the last
    items = [*images, order.prompt]
    counted["inputs"] = hub.counter.inputs(items, draws=True)
    several = {"images": order.n} if order.n > 1 else {}
    return drawn(hub, hub.bagel.stream(items, preset=order.preset, **several, **options), order.form)


async def _events(hub: Hub, order: Order, job: Any, counted: dict[str, Any], name: str) -> AsyncIterator[bytes]:
    """OpenAI's events of a picture that is drawn; `progress` adds ours."""
    common = {"output_format": order.form.format, "background": "opaque", "quality": "auto"}
    async for item in job:
        now = {"created_at": int(time.time()), **common}
        if isinstance(item, Preview):
            event = {"b64_json": item.data, "partial_image_index": item.index, "size": item.size, "index": item.picture}
            yield sse({"type": f"{name}.partial_image", **event, **now}, f"{name}.partial_image")
        elif isinstance(item, Picture):
            event = {**_entry(item, order.form), "size": item.size, "usage": _usage(hub, counted["inputs"], [item])}
            yield sse({"type": f"{name}.completed", **event, **now}, f"{name}.completed")
        elif isinstance(item, Progress) and order.form.progress:
            event = {"stage": item.stage, "done": item.done, "total": item.total, "index": item.picture}
            yield sse({"type": f"{name}.progress", **event}, f"{name}.progress")


def _entry(picture: Picture, form: Form) -> dict[str, Any]:
    """A picture of an answer; with the seed that draws it again."""
    content = {"url": f"data:{form.mime};base64,{picture.data}"} if form.url else {"b64_json": picture.data}
    return {**content, "revised_prompt": picture.plan, "seed": picture.result.seed}


def _usage(hub: Hub, inputs: tuple[int, int], pictures: list[Picture]) -> dict[str, Any]:
    latents = sum(hub.counter.drawn(*picture.result.image.size) for picture in pictures)
    plans = sum(hub.counter.written(picture.result.text or "") for picture in pictures)
    return picture_usage(inputs, latents, plans)

"""/v1/sessions: conversations that keep their contexts, with turns, forks and rollback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from bagel_rt.options import checks
from bagel_rt.results import TextResult
from bagel_rt.serve import documents
from bagel_rt.serve.answers import EventStream, collected, sse
from bagel_rt.serve.asking import IMAGE, TEXT, Asked, understood, unwrapped
from bagel_rt.serve.chat import written
from bagel_rt.serve.checking import check_drawn, check_texts, check_written
from bagel_rt.serve.drawing import Form, Picture, Preview, Progress, Words, drawn, form_of
from bagel_rt.serve.failures import refused
from bagel_rt.serve.hub import Hub
from bagel_rt.serve.kept import Kept, Sessions, described
from bagel_rt.serve.pictures_in import PictureReader, as_list
from bagel_rt.serve.receiving import json_body
from bagel_rt.serve.thoughts import told_apart
from bagel_rt.serve.turns import events_of, session_options, turn
from bagel_rt.serve.work import Job, Work

OWN = ("text", "images", "output", "stream", "partial_images", "progress", "output_format", "output_compression",
       "preset", "model", "mask")  # fmt: skip
THINKING = ("image", "text", True, False, None)


def routes(hub: Hub, sessions: Sessions) -> APIRouter:
    """The routes, for a hub and its kept conversations."""
    router = APIRouter(tags=["sessions"], prefix="/v1/sessions")
    told = partial(described, idle=hub.settings.session_idle)

    @router.post("", openapi_extra=documents.SESSION, responses=documents.ERRORS)
    async def create(request: Request) -> Response:
        """Open a conversation: seed, system prompt, adapter, and think ("image": plan pictures, "text": reason in
        answers)."""
        body = await json_body(request)
        think = body.get("think")
        if not any(think is one for one in THINKING) and think not in ("image", "text"):
            raise refused(f"think is {checks.shown(think)}; allowed: image, text, or nothing", "think")
        bagel = hub.bagel
        chosen = {name: body.get(name) for name in ("system", "adapter")}
        kept = await _aside(lambda: sessions.keep(bagel.session(body.get("seed"), think, **chosen)))
        return JSONResponse(told(kept), 201)

    @router.get("/{name}", responses=documents.ERRORS)
    async def show(name: str) -> Response:
        """What is kept of a conversation."""
        return JSONResponse(told(await _aside(lambda: sessions.find(name))))

    @router.delete("/{name}", responses=documents.ERRORS)
    async def delete(name: str) -> Response:
        """Forget a conversation; its pages are given back."""
        await _aside(lambda: sessions.forget(name))
        return JSONResponse({"id": name, "object": "session", "deleted": True})

    @router.post("/{name}/fork", openapi_extra=documents.FORK, responses=documents.ERRORS)
    async def fork(name: str, request: Request) -> Response:
        """A second conversation with the same past."""
        seed = (await json_body(request)).get("seed")

        def forked() -> Kept:
            kept = sessions.find(name)
            with kept.turn():
                return sessions.keep(kept.session.fork(seed), kept.before)

        return JSONResponse(told(await _aside(forked)), 201)

    @router.post("/{name}/rollback", openapi_extra=documents.ROLLBACK, responses=documents.ERRORS)
    async def rollback(name: str, request: Request) -> Response:
        """Take the last turns back, random numbers included."""
        count = checks.whole("turns", (await json_body(request)).get("turns", 1), least=1)
        return JSONResponse(told(await _aside(lambda: _back(sessions.find(name), count))))

    @router.post("/{name}/turns", openapi_extra=documents.TURN, responses=documents.ERRORS)
    async def turns(name: str, request: Request) -> Response:
        """Say something, show pictures, and have a text written or a picture drawn (`output`)."""
        body = await json_body(request)
        _ = hub.bagel
        kept = await _aside(lambda: sessions.find(name))
        asked, output, form = _asked(hub, body)
        job = hub.job()
        await job.begin(lambda: _work(hub, kept, asked, output, form))
        if asked.own.get("stream"):
            return EventStream(job, _events(kept, job, form), asked.headers)
        return JSONResponse(_told(kept, await collected(request, job)), headers=asked.headers)

    return router


async def _aside(call: Any) -> Any:
    """The result of a call that may wait for a step of the model."""
    return await anyio.to_thread.run_sync(call)


def _back(kept: Kept, count: int) -> Kept:
    with kept.turn():
        if count > len(kept.before):
            raise refused(f"turns is {count}; the session has {len(kept.before)}", "turns")
        kept.session.rollback(kept.before[-count])
        del kept.before[-count:]
    return kept


def _asked(hub: Hub, body: dict[str, Any]) -> tuple[Asked, str | None, Form]:
    output = body.get("output")
    if output not in ("text", "image", None):
        raise refused(f"output is {checks.shown(output)}; allowed: text, image, or nothing", "output")
    asked = understood(body, OWN, TEXT if output == "text" else IMAGE, hub.settings)
    checks.text("text", asked.own.get("text"), optional=True)
    checks.flag("stream", asked.own.get("stream", False))
    check_texts(hub, asked.own.get("text"), asked.options.get("negative_prompt"))
    check_drawn(hub, asked.options)
    check_written(hub, asked.options)
    return asked, output, form_of(asked.own)


def _work(hub: Hub, kept: Kept, asked: Asked, output: str | None, form: Form) -> Work:
    """On a thread: pictures are opened and options checked; then the turn."""
    reader, own = PictureReader(hub.settings), asked.own
    items: list[Any] = [reader.image(one, "images") for one in as_list(own.get("images"))]
    if own.get("text"):
        items.append(unwrapped(own["text"]))
    if not items and output is None:
        raise refused("nothing is said, shown or asked for: a turn needs text, images or output")
    if output is None:
        return turn(hub, kept, items, None)
    options = session_options(hub.bagel.settings, output, own.get("preset"), asked.options, len(items) > 1)
    if own.get("mask") is not None:
        options["mask"] = reader.mask(own["mask"], "mask")
    return turn(hub, kept, items, lambda session: made(hub, events_of(session, output, options), output, form))


def made(hub: Hub, events: Any, output: str, form: Form) -> Work:
    """What a turn makes, as pieces of an answer."""
    yield from written(hub, [events]) if output == "text" else drawn(hub, events, form)


def _told(kept: Kept, items: list[Any]) -> dict[str, Any]:
    """A turn as an answer."""
    body: dict[str, Any] = {"object": "session.turn", "session": kept.id, "turn": len(kept.before)}
    for one in items:
        if isinstance(one, TextResult):
            thought, said = told_apart(one.text)
            body |= {"text": said, "reasoning_content": thought}
        if isinstance(one, Picture):
            body |= {"image": {"b64_json": one.data, "size": one.size}, "reasoning_content": one.plan}
    return body


async def _events(kept: Kept, job: Job, form: Form) -> AsyncIterator[bytes]:
    items = []
    async for one in job:
        if isinstance(one, Words):
            yield sse({"type": "session.text.delta", "stage": one.stage, "delta": one.text}, "session.text.delta")
        elif isinstance(one, Preview):
            event = {"type": "session.image.partial_image", "b64_json": one.data, "partial_image_index": one.index}
            yield sse(event, "session.image.partial_image")
        elif isinstance(one, Progress) and form.progress:
            event = {"type": "session.progress", "stage": one.stage, "done": one.done, "total": one.total}
            yield sse(event, "session.progress")
        else:
            items.append(one)
    yield sse({"type": "session.turn.completed", **_told(kept, items)}, "session.turn.completed")

"""POST /v1/responses: OpenAI's newer form of a chat; `previous_response_id` goes on in the kept session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from bagel_rt.conversation.session import Session
from bagel_rt.errors import BagelError
from bagel_rt.options import checks
from bagel_rt.results import TextResult
from bagel_rt.serve import documents
from bagel_rt.serve.answers import EventStream, collected
from bagel_rt.serve.asking import IMAGE, TEXT, Asked, understood
from bagel_rt.serve.checking import check_drawn, check_model, check_texts, check_written, preset_of
from bagel_rt.serve.drawing import Form, Picture, form_of
from bagel_rt.serve.failures import ApiError, refused
from bagel_rt.serve.hub import Hub
from bagel_rt.serve.kept import Kept, Sessions
from bagel_rt.serve.messages import characters
from bagel_rt.serve.pictures_in import PictureReader
from bagel_rt.serve.places import new_id
from bagel_rt.serve.receiving import json_body
from bagel_rt.serve.reply import Reply
from bagel_rt.serve.sessions import made
from bagel_rt.serve.spoken import inputs_of, tool_of
from bagel_rt.serve.turns import events_of, session_options, turn
from bagel_rt.serve.work import Job, Work

OWN = ("model", "input", "instructions", "tools", "tool_choice", "previous_response_id", "stream", "store", "preset",
       "partial_images", "progress", "output_format", "output_compression", "mask")  # fmt: skip
MOST = 1000  # answers that can be gone on from; their sessions are bounded by themselves


@dataclass(frozen=True)
class Place:
    """Where a later response goes on: in a fork of this one's session, which stays as it is."""

    session: str
    pictures: bool
    tokens: int


@dataclass(frozen=True)
class Want:
    """A checked request."""

    asked: Asked
    draws: bool
    form: Form
    previous: str | None
    store: bool
    stream: bool

    @property
    def output(self) -> str:
        return "image" if self.draws else "text"

    def pictures_before(self, place: Place | None) -> bool:
        return place is not None and place.pictures


class Memory:
    """The ends of earlier responses, by their ids, the newest of them, and the sessions in which they are."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self._found: dict[str, Place] = {}

    def add(self, name: str, place: Place) -> None:
        self._found[name] = place
        while len(self._found) > MOST:
            self._found.pop(next(iter(self._found)))

    def find(self, name: str) -> Place:
        found = self._found.get(name)
        if found is None:
            message = f"previous_response_id {checks.shown(name)} is not kept here, or no more"
            raise ApiError(404, message, param="previous_response_id", code="previous_response_not_found")
        return found


def routes(hub: Hub, sessions: Sessions) -> APIRouter:
    """The route, for a hub and its kept conversations."""
    router, kept = APIRouter(tags=["responses"]), Memory(sessions)

    @router.post("/v1/responses", openapi_extra=documents.RESPONSE, responses=documents.ERRORS)
    async def create(request: Request) -> Response:
        """Answer in words, or draw where the image_generation tool is named."""
        want = _want(await json_body(request), hub)
        before = None if want.previous is None else kept.find(want.previous)
        job = hub.job()
        reply = Reply(new_id("resp", hub.settings.place), hub.name, want.draws, want.form, want.previous, want.store)
        await job.begin(lambda: _work(hub, kept, want, before, reply))
        if want.stream:
            return EventStream(job, _events(job, reply), want.asked.headers)
        await collected(request, job)
        return JSONResponse(reply.body(), headers=want.asked.headers)

    @router.delete("/v1/responses/{name}", responses=documents.ERRORS)
    async def delete(name: str) -> Response:
        """Forget an answer: nothing goes on from it any more."""
        place = kept.find(name)
        await anyio.to_thread.run_sync(lambda: sessions.forget(place.session))
        return JSONResponse({"id": name, "object": "response", "deleted": True})

    return router


def _want(body: dict[str, Any], hub: Hub) -> Want:
    tool = tool_of(body)
    draws = tool is not None
    asked = check_model(hub, understood({**(tool or {}), **body}, OWN, IMAGE if draws else TEXT, hub.settings))
    own = asked.own
    check_texts(hub, " " * (characters(own.get("input")) + characters(own.get("instructions"))))
    checks.text("instructions", own.get("instructions"), optional=True)
    check_drawn(hub, asked.options)
    check_written(hub, asked.options)
    previous = checks.text("previous_response_id", own.get("previous_response_id"), optional=True)
    if previous is not None and own.get("instructions"):
        asked.own.pop("instructions")  # OpenAI's clients repeat them; the conversation has begun with its own
    flags = {name: checks.flag(name, own.get(name, default)) for name, default in (("store", True), ("stream", False))}
    return Want(asked, draws, form_of(own), previous, **flags)


def _work(hub: Hub, kept: Memory, want: Want, before: Place | None, reply: Reply) -> Work:
    """On a thread: pictures are opened, options checked; then the turn, behind the earlier one where there is one."""
    reader, own, options = PictureReader(hub.settings), want.asked.own, dict(want.asked.options)
    items = inputs_of(own.get("input"), reader)
    if not items:
        raise refused("input holds no text and no picture", "input")
    beginning = _beginning(want, options)
    pictures = want.pictures_before(before) or not all(isinstance(one, str) for one in items)
    values = session_options(hub.bagel.settings, want.output, preset_of(own), options, pictures)
    if own.get("mask") is not None:
        values["mask"] = reader.mask(own["mask"], "mask")
    return Exchange(hub, kept, want, before, reply).run(items, values, beginning)


@dataclass(frozen=True)
class Beginning:
    """What is chosen when a conversation begins, and the seed, which may begin afresh later."""

    seed: int | None
    think: Any
    system: str | None
    adapter: Any


def _beginning(want: Want, options: dict[str, Any]) -> Beginning:
    """Taken out of the options of a turn."""
    seed = checks.whole("seed", options.pop("seed", None), least=None, optional=True)
    think = checks.flag("think", options.pop("think", False))
    system = options.pop("system", want.asked.own.get("instructions"))
    adapter = checks.adapters("adapter", options.pop("adapter", None))
    return Beginning(seed, want.output if think else None, system, adapter)


class Exchange:
    """One response: a session of its own, which begins or goes on from an earlier one's end, and a turn in it."""

    def __init__(self, hub: Hub, kept: Memory, want: Want, before: Place | None, reply: Reply):
        self._hub, self._kept, self._want, self._before, self._reply = hub, kept, want, before, reply

    def run(self, items: list[Any], values: dict[str, Any], beginning: Beginning) -> Work:
        """The turn; at its end the reply is whole, and its place is kept."""
        session = self._session(beginning)
        try:
            last = yield from self._turn(session, items, values)
            tokens = self._finish(last, items)
            if self._want.store:
                self._keep(session, items, tokens)
            else:
                session.close()
        except BaseException:
            session.close()
            raise

    def _session(self, beginning: Beginning) -> Session:
        if self._before is None:
            chosen = {"system": beginning.system, "adapter": beginning.adapter}
            return self._hub.bagel.session(beginning.seed, beginning.think, **chosen)
        earlier = self._kept.sessions.find(self._before.session).session
        if beginning.think is not None and beginning.think != earlier.think:
            raise refused("thinking is chosen when a conversation begins; leave it out, or begin another", "reasoning")
        if beginning.adapter is not None and beginning.adapter != earlier.adapter:
            raise refused("an adapter is chosen when a conversation begins; leave it out, or begin another", "adapter")
        return earlier.fork(beginning.seed)

    def _turn(
        self, session: Session, items: list[Any], values: dict[str, Any]
    ) -> Generator[Any, None, TextResult | Picture]:
        hub, output, last = self._hub, self._want.output, None

        def making(one: Session) -> Work:
            return made(hub, events_of(one, output, values), output, self._want.form)

        for item in turn(hub, Kept(session, ""), items, making):
            last = item if isinstance(item, TextResult | Picture) else last
            yield item
        if last is None:
            raise BagelError("the model made nothing")
        return last

    def _finish(self, last: TextResult | Picture, items: list[Any]) -> int:
        """Complete the reply; returns the tokens of the conversation so far."""
        counter = self._hub.counter
        cached = 0 if self._before is None else self._before.tokens
        read = sum(counter.inputs(items, self._hub.bagel.manifest.task == "full"))  # a session may draw later
        written, plan = _counted(self._hub, last)
        self._reply.finish(last, read, cached, written, plan)
        return cached + read + written

    def _keep(self, session: Session, items: list[Any], tokens: int) -> None:
        shown = self._want.pictures_before(self._before) or not all(isinstance(one, str) for one in items)
        place = Place(self._kept.sessions.keep(session).id, shown or self._want.draws, tokens)
        self._kept.add(self._reply.id, place)


def _counted(hub: Hub, made: TextResult | Picture) -> tuple[int, int]:
    """(tokens written or drawn, those of them that are a picture's plan)."""
    if isinstance(made, TextResult):
        return len(made.token_ids) - 1, 0
    plan = hub.counter.written(made.result.text or "")
    return hub.counter.drawn(*made.result.image.size) + plan, plan


async def _events(job: Job, reply: Reply) -> AsyncIterator[bytes]:
    for event in reply.begin():
        yield event
    async for item in job:
        for event in reply.took(item):
            yield event
    for event in reply.end():
        yield event

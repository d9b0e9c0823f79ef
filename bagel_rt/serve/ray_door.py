"""The door: takes requests from Ray's proxy, chooses nothing but the replica that keeps a conversation, and answers
for a replica that died.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ray import serve  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]
from ray.serve.exceptions import BackPressureError, RayServeException  # pyright: ignore[reportMissingImports]
from ray.serve.request_router import RequestRouter  # pyright: ignore[reportMissingImports]
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount

from bagel_rt.serve.answers import json_line, sse
from bagel_rt.serve.failures import ApiError
from bagel_rt.serve.guard import Guard
from bagel_rt.serve.hub import Hub
from bagel_rt.serve.places import place_of
from bagel_rt.serve.ray_replica import Call
from bagel_rt.serve.settings import ServeSettings

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

log = logging.getLogger("bagel_rt.serve")
TRIES, PAUSE = 3, 0.1  # replicas that may die over one request; seconds between
SENT = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers", "client",
        "server")  # fmt: skip


LAST = {b"text/event-stream": lambda told: sse(told, "error"), b"application/x-ndjson": json_line}  # of a stream


class KeptPlace(RequestRouter):
    """Ray's choice of a replica: the one a request names as its session, where it is there; else the idler of two."""

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
        place = pending_request.metadata.session_id if pending_request else ""
        named = [one for one in candidate_replicas if place and one.replica_id.unique_id == place]
        return [named or random.sample(candidate_replicas, min(2, len(candidate_replicas)))]


@serve.deployment
@serve.ingress()
class Door:
    """Keys, host names and bodies' sizes are checked here, before anything is sent on."""

    def __init__(self, replicas: Any, settings: ServeSettings):
        self._passing = Passing(replicas)
        self._hub = Hub(_never, settings)

    def __serve_build_asgi_app__(self) -> Starlette:
        return Starlette(routes=[Mount("/", app=self._passing)], middleware=[Middleware(Guard, hub=self._hub)])


def _never() -> Any:
    raise RuntimeError("a door opens no model")


class Passing:
    """ASGI application that has its answers from replicas.

    A request whose replica dies is given to another, unless a part of its answer was sent, or it goes on from a
    conversation which died with its replica: then it is answered with an error in OpenAI's shape.
    """

    def __init__(self, replicas: Any):
        self._replicas = replicas.options(method_name="answer", stream=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        call = Call({key: scope[key] for key in SENT if key in scope}, body)
        place = place_of(scope["path"], body)
        answer = Answer(send)
        try:
            await self._passed(call, place, answer)
        except ApiError as error:
            await answer.refuse(scope, receive, error)

    async def _passed(self, call: Call, place: str, answer: Answer) -> None:
        for left in reversed(range(TRIES)):
            try:
                async with aclosing(self._messages(call, place)) as messages:
                    async for message in messages:
                        await answer.take(message)
                if not answer.ended:
                    raise ReplicaLost
                return
            except ReplicaLost as lost:
                log.warning("a replica was lost over a request: %s", type(lost.__cause__ or lost).__name__)
                if answer.begun or place or not left:
                    raise _lost(place) from None
                await asyncio.sleep(PAUSE)  # in which the death becomes known
            except BackPressureError:
                raise ApiError(
                    429, "the queue is full; try again", code="queue_full", headers={"Retry-After": "10"}
                ) from None

    async def _messages(self, call: Call, place: str) -> AsyncGenerator[Message, None]:
        """Of one replica's answer; whoever stops reading cancels it."""
        answering = self._replicas.options(session_id=place).remote(call)
        try:
            async for message in answering:
                yield message
        except BackPressureError:
            raise
        except (RayError, RayServeException, TimeoutError) as error:  # a TimeoutError of ours is a client's
            raise ReplicaLost from error
        except BaseException:
            answering.cancel()
            raise


class ReplicaLost(Exception):
    """No answer, or no more of it, comes from a replica."""


def _lost(place: str) -> ApiError:
    """503: tried again it may work, in a new conversation."""
    words = "the conversation is lost with it, begin another" if place else "try again"
    return ApiError(
        503, f"the replica that worked on this died; {words}", code="replica_lost", headers={"Retry-After": "5"}
    )


class Answer:
    """What was sent of an answer. Its head waits for the first of its body: until then another may answer."""

    def __init__(self, send: Send):
        self._send = send
        self._head: Message | None = None
        self.begun = self.ended = False

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._head = message
            return
        if self._head is not None and not self.begun:
            self.begun = True
            await self._send(self._head)
        self.ended = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, scope: Scope, receive: Receive, error: ApiError) -> None:
        """The error as the answer, or as the last event of a stream."""
        if not self.begun:
            await JSONResponse(error.body, error.status, headers=error.headers)(scope, receive, self._send)
            return
        kind = dict(self._head["headers"] if self._head else ()).get(b"content-type", b"").partition(b";")[0]
        if kind not in LAST:
            raise error
        await self._send({"type": "http.response.body", "body": LAST[kind](error.body), "more_body": False})

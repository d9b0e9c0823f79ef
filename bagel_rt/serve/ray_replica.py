"""A replica: one model and its application, asked by a door through Ray instead of through a port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ray import serve  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

from bagel_rt.serve.app import create_app
from bagel_rt.serve.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Message

    from bagel_rt.api import Bagel


@dataclass(frozen=True)
class Call:
    """A whole request on its way to a replica."""

    scope: dict[str, Any]  # of ASGI, without what cannot be sent to another process
    body: bytes


@serve.deployment
class Replica:
    """Keeps one model open. A replica is there once its model is loaded; Ray replaces one that is not healthy."""

    def __init__(self, load: Callable[[], Bagel], settings: ServeSettings):
        place = serve.get_replica_context().replica_id.unique_id
        self._app = create_app(load, replace(settings, place=place))
        self._app.state.hub.start()
        self._app.state.hub.wait()

    async def answer(self, call: Call) -> AsyncIterator[Message]:
        """The messages of the application's answer. Cancelled, it cancels the work, as a client that goes away."""
        async for message in answered(self._app, call):
            yield message

    async def check_health(self) -> None:
        """Raise when requests are not taken: the model fails. Conversations that rested too long go, too."""
        await asyncio.to_thread(self._app.state.kept.sweep)
        if (why := self._app.state.hub.why_not_ready) is not None:
            raise RuntimeError(why)

    def __del__(self) -> None:
        """Ray calls this when a replica that took nothing more has finished its requests, or their time is over."""
        if hasattr(self, "_app"):
            self._app.state.hub.close()


async def answered(app: FastAPI, call: Call) -> AsyncIterator[Message]:
    """What an ASGI application sends for a call. Ended early, the application is cancelled."""
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    incoming = [{"type": "http.request", "body": call.body, "more_body": False}]

    async def receive() -> Message:
        if incoming:
            return incoming.pop()
        return await asyncio.Event().wait()  # type: ignore[return-value]  # for ever: whoever goes away cancels

    running = asyncio.ensure_future(app(dict(call.scope), receive, sent.put))
    running.add_done_callback(lambda _: sent.put_nowait(None))
    try:
        while (message := await sent.get()) is not None:
            yield message
        await running
    finally:
        running.cancel()

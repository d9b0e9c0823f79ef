"""Answers that end when their client goes away: whole ones, and server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bagel_rt.serve.failures import as_api_error
from bagel_rt.serve.work import Job

Made = TypeVar("Made")


class ClientGone(Exception):
    """Nobody is there to read the answer."""


async def while_there(receive: Receive, making: Coroutine[Any, Any, Made]) -> Made:
    """What is made, unless the client goes away first: then it is cancelled, and ClientGone raised."""
    made, gone = asyncio.ensure_future(making), asyncio.ensure_future(_departure(receive))
    try:
        await asyncio.wait({made, gone}, return_when=asyncio.FIRST_COMPLETED)
        if made.done():
            return made.result()
        raise ClientGone
    finally:
        for task in (made, gone):
            task.cancel()
        await asyncio.gather(made, gone, return_exceptions=True)


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def collected(request: Request, job: Job) -> list[Any]:
    """All that a job yields."""

    async def collect() -> list[Any]:
        return [item async for item in job]

    try:
        return await while_there(request.receive, collect())
    finally:
        job.cancel()


def sse(value: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {event}\n" if event else ""
    data = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return f"{head}data: {data}\n\n".encode()


class EventStream(Response):
    """Server-sent events made from a job, which ends with the connection. An error becomes the last event."""

    media_type = "text/event-stream"

    def __init__(self, job: Job, events: AsyncIterator[bytes], headers: dict[str, str]):
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers})
        del self.headers["content-length"]
        self._job, self._events = job, events

    def told(self, error: dict[str, Any]) -> bytes:
        """An error as the last event."""
        return sse(error, "error")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_there(receive, self._send(send))
        finally:
            self._job.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except (asyncio.CancelledError, ClientGone, OSError):
            raise
        except Exception as error:
            failed = self.told(as_api_error(error).body)
            await send({"type": "http.response.body", "body": failed, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            if as_api_error(error).status == 500:
                raise
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def json_line(value: Any) -> bytes:
    """A value as a line of JSON."""
    return (json.dumps(value, separators=(",", ":")) + "\n").encode()


class LineStream(EventStream):
    """The same as lines of JSON."""

    media_type = "application/x-ndjson"

    def told(self, error: dict[str, Any]) -> bytes:
        return json_line(error)

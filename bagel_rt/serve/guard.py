"""What stands before every route: who may ask, how much and how slowly may be sent, and one line in the log."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
import traceback
from collections.abc import Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bagel_rt.serve.answers import ClientGone
from bagel_rt.serve.failures import ApiError, as_api_error
from bagel_rt.serve.hub import Hub
from bagel_rt.serve.settings import LOOPBACK, ServeSettings

log = logging.getLogger("bagel_rt.serve.access")
GONE = (ClientGone, ClientDisconnect, TimeoutError)
KEYED = ("/v1/", "/generate", "/metrics")  # what needs a key, where there are keys
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """ASGI middleware. Its refusals have OpenAI's shape, as the routes' have."""

    def __init__(self, app: ASGIApp, hub: Hub):
        self._app, self._hub, self._settings = app, hub, hub.settings
        self._receiving = 0  # bytes of bodies that are being received

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = Visit(scope, self._settings)
        body = Body(receive, self._settings, self)
        try:
            try:
                check_caller(scope, self._settings)
                body.check_announced(scope)
                await self._app(scope, body.receive, visit.sender(send))
            except ApiError as error:
                answer = JSONResponse(error.body, error.status, headers={**error.headers, "Connection": "close"})
                await answer(scope, receive, visit.sender(send))
            except Exception as error:
                if isinstance(error, GONE):
                    raise
                await self._told(error, visit, scope, receive, send)
        except (*GONE, asyncio.CancelledError) as error:
            self._hub.meters.cancelled.inc()
            visit.status = 499
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self.received(-body.count)
            visit.end(self._hub)

    async def _told(self, error: Exception, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        """A mistake of ours: its place is logged, not its message, which may hold a prompt; the caller gets a 500."""
        where = "".join(traceback.format_tb(error.__traceback__))
        log.error("%s %s at\n%s", visit.id, type(error).__name__, where)
        if not visit.status:
            found = as_api_error(error)
            await JSONResponse(found.body, found.status, headers=found.headers)(scope, receive, visit.sender(send))

    def received(self, count: int) -> None:
        """So many bytes more, or fewer, are held. Raises ApiError 503 beyond what is allowed for all together."""
        if count > 0 and self._receiving + count > self._settings.max_bodies:
            raise ApiError(503, "too much is being sent at once; try again", headers={"Retry-After": "5"})
        self._receiving += count


class Body:
    """A request's body on its way in: bounded in bytes and in time."""

    def __init__(self, receive: Receive, settings: ServeSettings, guard: Guard):
        self._receive, self._settings, self._guard = receive, settings, guard
        self._ends = time.monotonic() + settings.receive_seconds
        self._whole = False
        self.count = 0

    def check_announced(self, scope: Scope) -> None:
        """Raise ApiError 413 for a length that is too large, before anything is read."""
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit() or int(length[:20]) > self._settings.max_body:
            raise self._too_long()

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._ends - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            seconds = self._settings.receive_seconds
            raise ApiError(408, f"the body did not arrive within {seconds:g} seconds") from None
        count = len(message.get("body", b""))
        self._guard.received(count)
        self.count += count
        if self.count > self._settings.max_body:
            raise self._too_long()
        self._whole = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    def _too_long(self) -> ApiError:
        return ApiError(413, f"the body is longer than {self._settings.max_body} bytes, which this server takes")


class Visit:
    """One request, for the log and the meters. No address beyond the path, no header, nothing of the body."""

    def __init__(self, scope: Scope, settings: ServeSettings):
        self._scope, self._settings = scope, settings
        self.id, self.status, self._sent = secrets.token_hex(8), 0, 0
        self._began, self._first = time.monotonic(), None
        scope.setdefault("state", {})["request_id"] = self.id

    def sender(self, send: Send) -> Send:
        """As `send`, with headers of ours, counted; raises TimeoutError for a client that does not read."""

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = self.id
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
            self._sent += len(message.get("body", b""))
            async with asyncio.timeout(self._settings.send_seconds):
                await send(message)
            if message["type"] == "http.response.start":
                self.status, self._first = message["status"], time.monotonic()

        return sending

    def end(self, hub: Hub) -> None:
        seconds = time.monotonic() - self._began
        route = getattr(self._scope.get("route"), "path", "other")
        hub.meters.requests.labels(route, str(self.status)).inc()
        hub.meters.seconds.labels(route).observe(seconds)
        first = 0.0 if self._first is None else self._first - self._began
        method = self._scope["method"] if self._scope["method"].isalpha() else "?"
        log.info("%s %s %s %d first %.3fs all %.3fs %d bytes", self.id, method[:8], route, self.status, first, seconds,
                 self._sent)  # fmt: skip


def check_caller(scope: Scope, settings: ServeSettings) -> None:
    """Raise ApiError for a caller who may not ask.

    With keys: 401 without one of them. Without: 403 for a name that is not this machine's, which is how a page on the
    web would reach a server here (DNS rebinding), and for requests that a page of another host sends.
    """
    headers = Headers(scope=scope)
    check_origin(headers, settings)
    if not settings.keys:
        host = _host_of(f"//{headers.get('host', '')}")
        if host not in (*LOOPBACK, *settings.hosts):
            raise ApiError(
                403, f"this server has no API key and answers {', '.join(LOOPBACK)} alone; see --api-key-file"
            )
    elif scope["path"].startswith(KEYED) and scope["method"] != "OPTIONS":
        given = headers.get("authorization", "").removeprefix("Bearer ").strip() or headers.get("x-api-key", "")
        if not _among(given, settings.keys):
            raise ApiError(401, "no API key, or one that is not known: send Authorization: Bearer KEY",
                           code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})  # fmt: skip


def check_origin(headers: Headers, settings: ServeSettings) -> None:
    """Raise ApiError 403 for a page of another host, which browsers let send requests and not read the answers."""
    origin = headers.get("origin")
    if origin is None or origin in settings.origins or "*" in settings.origins:
        return
    if origin == "null" or urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        raise ApiError(403, "a page of another host may not call this server; --cors names those that may")


def _host_of(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""


def _among(given: str, keys: Iterable[str]) -> bool:
    """Whether a key is one of the known ones, in a time that does not tell which, or how much of it, was right."""
    found = False
    for key in keys:
        found |= hmac.compare_digest(given.encode(), key.encode())
    return found

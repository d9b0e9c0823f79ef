"""An application on a port, by uvicorn, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from bagel_rt.errors import InputError
from bagel_rt.serve.app import create_app
from bagel_rt.serve.settings import LOOPBACK, ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bagel_rt.api import Bagel

CONNECTIONS = 1024
HEADERS = 64 * 1024  # bytes of a request's headers


def serve(
    load: Callable[[], Bagel], settings: ServeSettings, host: str, port: int, listening: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or Ctrl-C; then what runs is finished, within drain_seconds. `listening` is told the address.

    Raises InputError for a host or port that cannot be used, or a host beyond this machine without a key; and whatever
    loading the model raised.
    """
    check_host(settings, host)
    with bound(host, port) as listener:
        app = create_app(load, settings)
        server = Server(configured(app, settings))
        hub = app.state.hub
        hub.on_error = server.stop
        name = f"[{host}]" if ":" in host else host
        listening(f"http://{name}:{listener.getsockname()[1]}/")
        server.run(sockets=[listener])
    if hub.error is not None:
        raise hub.error


def check_host(settings: ServeSettings, host: str) -> None:
    """Raise InputError for a host that others reach, where no key is asked for."""
    if not settings.keys and host not in LOOPBACK:
        raise InputError(
            f"host {host} is reached by other machines, and there is no API key: name a file of keys with"
            f" --api-key-file, or serve this machine alone ({', '.join(LOOPBACK)})"
        )


class Server(uvicorn.Server):
    """uvicorn's, which ends quietly after a signal: the exit code says how the command ended."""

    def stop(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        except ValueError:  # on another thread than the main one: whoever runs it there stops it by stop()
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class PunctualProtocol(H11Protocol):
    """Closes a connection whose request's headers take too long: uvicorn itself waits for them for ever."""

    seconds = 60.0
    _late: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.access_log = False  # it would write addresses with their queries; guard.py writes a line of its own

    def connection_made(self, transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._late is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._late = self.loop.call_later(self.seconds, lambda: self.transport.close())

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def configured(app: FastAPI, settings: ServeSettings) -> uvicorn.Config:
    """How uvicorn runs an application: no log of its own, bounded headers and connections."""
    protocol = type("Protocol", (PunctualProtocol,), {"seconds": settings.receive_seconds})
    return uvicorn.Config(
        app, http=protocol, ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=CONNECTIONS, h11_max_incomplete_event_size=HEADERS,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )  # fmt: skip


def _at_once(listener: socket.socket) -> socket.socket:
    """The same socket, named as TCP's: asyncio sends small writes at once only where it reads that.

    Else each answer waits 40 ms until its head is acknowledged, and so do words that follow one another in a stream.
    """
    return socket.socket(listener.family, listener.type, socket.IPPROTO_TCP, fileno=listener.detach())


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises InputError for an address that cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return _at_once(socket.create_server((host, port), family=family, backlog=CONNECTIONS))
    except (OSError, OverflowError, UnicodeError) as seen:
        why = getattr(seen, "strerror", None) or str(seen)
        raise InputError(f"port {port} of {host} cannot be used: {why}; name others with --host and --port") from None

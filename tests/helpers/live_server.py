"""A live server on loopback, one for the whole run, and what tests send to it."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from PIL import Image

from bagel_rt.serve.app import create_app
from bagel_rt.serve.running import Server, bound, configured
from bagel_rt.serve.settings import ServeSettings

STEPS = 5  # points of a picture's schedule, where its looks do not matter


class Live:
    """A running server: its address, its hub, and requests to it."""

    def __init__(self, url: str, app: Any):
        self.url, self.app, self.hub = url, app, app.state.hub
        self.http = httpx2.Client(base_url=url, timeout=60)

    def post(self, path: str, json: Any = None, **how: Any) -> httpx2.Response:
        return self.http.post(path, json=json, **how) if json is not None else self.http.post(path, **how)

    def get(self, path: str, **how: Any) -> httpx2.Response:
        return self.http.get(path, **how)

    def rests(self, seconds: float = 10) -> bool:
        """Whether nothing is computed any more, soon."""
        return soon(lambda: self.hub.desk.empty, seconds)


def soon(is_so: Callable[[], bool], seconds: float = 10) -> bool:
    ends = time.monotonic() + seconds
    while not is_so() and time.monotonic() < ends:
        time.sleep(0.01)
    return is_so()


@contextmanager
def serving(load: Callable[[], Any], wait: bool = True, **settings: Any) -> Iterator[Live]:
    """A server of its own on a free port of this machine."""
    chosen = ServeSettings(**settings)
    app = create_app(load, chosen)
    server = Server(configured(app, chosen))
    listener = bound("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    live = Live(f"http://127.0.0.1:{listener.getsockname()[1]}", app)
    try:
        assert not wait or soon(lambda: app.state.hub.why_not_ready is None, 60)
        yield live
    finally:
        live.http.close()
        server.stop()
        thread.join(60)
        listener.close()
        assert not thread.is_alive(), where_threads_are()


def where_threads_are() -> str:
    """The stack of every thread: what a server that does not end waits for."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = sys._current_frames().items()
    return "\n".join(f"{names.get(ident)}:\n{''.join(traceback.format_stack(frame))}" for ident, frame in stacks)


class Lent:
    """A model that a server may close without closing it."""

    def __init__(self, bagel: Any):
        self._bagel = bagel

    def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bagel, name)


def data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def opened(text: str) -> Image.Image:
    """A picture from base64 or a data URL."""
    return Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2])))


def events_of(text: str) -> list[dict[str, Any]]:
    """The JSON of server-sent events."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]

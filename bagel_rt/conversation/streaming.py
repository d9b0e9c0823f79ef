"""Streams: generators of events that hold the model's lock only while they compute their next event.

So several streams of one model can be under way, on one thread or many; closing a stream cancels its work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

from bagel_rt.errors import BagelError
from bagel_rt.events import Done, Event, ImageReady, OnProgress, Turn


class Gate:
    """The lock of one model. Work enters for one step at a time (a token, a denoising step), and not after close()."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: int | None = None  # the thread that holds the lock
        self._to_give_back: deque[Callable[[], object]] = deque()
        self._closed = False

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Wait for the running step to end; raises BagelError when the model was closed."""
        with self._hold():
            if self._closed:
                raise BagelError("this model was closed; load it again")
            yield

    def leave(self, give_back: Callable[[], object]) -> None:
        """Call `give_back`, which frees cache pages, while no step is running; on a closed model too.

        Called by the thread that is inside a step (the garbage collector may close a forgotten stream anywhere), it
        waits for that step's end instead of for the lock, which would never come.
        """
        self._to_give_back.append(give_back)
        if self._inside != threading.get_ident():
            with self._hold():
                pass

    def close(self, give_back: Callable[[], object]) -> None:
        """Refuse every further step, then call `give_back`, once the running step has ended."""
        with self._hold():
            self._closed = True
            give_back()

    @contextmanager
    def _hold(self) -> Iterator[None]:
        with self._lock:
            self._inside = threading.get_ident()
            try:
                yield
            finally:
                while self._to_give_back:
                    self._to_give_back.popleft()()
                self._inside = None


def stream(gate: Gate, turn: Turn) -> Generator[Event, None, None]:
    """The turn's events, then Done with its result.

    Between two events the model is free for other calls. Closing the generator, or an error in whoever reads it, ends
    the turn where it is, and everything it held is given back.
    """
    try:
        while True:
            try:
                with gate.enter():
                    event = next(turn)
            except StopIteration as end:
                result = end.value
                break
            yield event
    finally:
        gate.leave(turn.close)
    yield Done(result)


def drain(events: Generator[Event, None, None], on_progress: OnProgress = None) -> Any:
    """Run a stream to its end and return its result; `on_progress` sees what comes before a finished picture."""
    with closing(events):
        for event in events:
            if isinstance(event, Done):
                return event.result
            if on_progress is not None and not isinstance(event, ImageReady):
                on_progress(event)
    raise AssertionError("a stream ends with Done")

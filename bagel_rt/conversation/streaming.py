"""Generators of events: advanced one step at a time under the model's lock, cancelled by closing them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

from bagel_rt.errors import BagelError
from bagel_rt.events import Done, Event, ImageReady, OnProgress, Turn


class Gate:
    """Lets one engine step at a time into a model, and none after it was closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: int | None = None  # the thread that holds the lock
        self._left: deque[Callable[[], object]] = deque()
        self._closed = False

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Wait for the running step to end; raises BagelError when the model was closed."""
        with self._hold():
            if self._closed:
                raise BagelError("this model was closed; load it again")
            yield

    def leave(self, give_back: Callable[[], object]) -> None:
        """Call `give_back` between two steps, on a closed model too.

        Inside a step it is called at that step's end: the garbage collector may close a forgotten stream anywhere.
        """
        self._left.append(give_back)
        if self._inside != threading.get_ident():
            with self._hold():
                pass

    def close(self, give_back: Callable[[], object]) -> None:
        """Let nobody in any more, then call `give_back`."""
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
                while self._left:
                    self._left.popleft()()
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

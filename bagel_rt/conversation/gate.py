"""The way into a model: one engine step at a time, none after it was closed, none in a forked child."""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary, WeakSet

from bagel_rt.errors import BagelError

Guest = TypeVar("Guest")  # what holds something of a model: a turn under way, a session
PATIENCE = 60.0  # seconds that the end of the program waits for a step that is being computed


class Gate:
    """The lock of one model. Work enters for one step at a time (a token, a denoising step), and not after close()."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._door = threading.Lock()  # one waits for the lock, the others for the door: nobody is passed by for ever
        self._process = os.getpid()
        self._inside: int | None = None  # the thread that holds the lock
        self._coming: set[int] = set()  # threads that wait for it
        self._to_give_back: deque[Callable[[], object]] = deque()
        self._guests: WeakKeyDictionary = WeakKeyDictionary()
        self._closed = self._ending = False
        _gates.add(self)

    @contextmanager
    def enter(self, at_rest: Callable[[], object] | None = None) -> Iterator[None]:
        """Wait for the running step to end; raises BagelError as check_open does.

        at_rest: called where this thread gets no further, because the program ends (see `end`).
        """
        self.check_open()
        with self._hold(at_rest):
            self.check_open()
            yield

    def check_open(self) -> None:
        """Raise BagelError when the model was closed, or belongs to the process that this one was forked from."""
        if self.inherited:
            raise BagelError(
                f"this model was loaded by process {self._process}, and this is a fork of it, process {os.getpid()}:"
                " an engine's threads do not come along. Load the model after the fork, or start workers with"
                " multiprocessing.get_context('spawn')"
            )
        if self._closed:
            raise BagelError("this model was closed; load it again")

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child: the lock may be held for ever, and nothing may be given back."""
        return os.getpid() != self._process

    def admit(self, guest: Guest, send_out: Callable[[Guest], object]) -> None:
        """`send_out` is called with the guest when the model is closed, if the guest still lives then."""
        self._guests[guest] = send_out

    def leave(self, give_back: Callable[[], object]) -> None:
        """Call `give_back`, which frees cache pages, while no step is running; on a closed model too.

        Called by the thread that is inside a step (the garbage collector may close a forgotten stream anywhere), it
        waits for that step's end instead of for the lock, which would never come.
        """
        if self.inherited:
            return
        self._to_give_back.append(give_back)
        here = threading.get_ident()
        if self._inside != here and here not in self._coming:
            with self._hold():
                pass

    def close(self, give_back: Callable[[], object]) -> None:
        """Refuse every further step, once the running one has ended: send every guest out, then call `give_back`."""
        if self.inherited:
            return
        with self._hold():
            self._closed = True
            for guest, send_out in list(self._guests.items()):
                send_out(guest)
            give_back()

    def end(self, patience: float) -> None:
        """Before the program ends: wait for the running step, and let no daemon thread begin another.

        The interpreter ends such threads wherever they are; inside an engine that is an abort of the whole process.
        """
        if self.inherited:
            return
        self._ending = True
        if self._lock.acquire(timeout=patience):
            self._lock.release()

    @contextmanager
    def _hold(self, at_rest: Callable[[], object] | None = None) -> Iterator[None]:
        here = threading.get_ident()
        self._coming.add(here)
        try:
            with self._door:
                self._lock.acquire()
        except BaseException:
            self._coming.discard(here)
            raise
        try:
            last = self._ending and threading.current_thread().daemon
            if not last:
                self._inside = here
                self._coming.discard(here)
                try:
                    yield
                finally:
                    while self._to_give_back:
                        self._to_give_back.popleft()()
                    self._inside = None
        finally:
            self._lock.release()
        if last:
            if at_rest is not None:
                at_rest()
            threading.Event().wait()  # the interpreter ends this thread


_gates: WeakSet[Gate] = WeakSet()


def _end() -> None:
    for gate in list(_gates):
        gate.end(PATIENCE)


atexit.register(_end)

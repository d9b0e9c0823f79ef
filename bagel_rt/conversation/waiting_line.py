"""Who may begin: a request enters when the cache and the memory have room for it beside those inside, else it waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bagel_rt.errors import QueueFull, QueueTimeout
from bagel_rt.generation.needs import Need

LOOK_UP = 0.5  # seconds: so often those who wait see whether the model was closed


@dataclass(eq=False)
class Ticket:
    """A request that waits or is inside. place: the smallest is the first of those who wait."""

    need: Need
    place: tuple[int, int]


class WaitingLine:
    """The line of one model.

    length: how many may wait, None: nobody waits, all enter at once; seconds: how long, None: without end. free: tokens
    that the cache has room for now; memory: bytes that may be taken, None: not known. rank: of an answer (True) or a
    picture; the lowest enters first.
    """

    def __init__(
        self,
        free: Callable[[], int],
        length: int | None = None,
        seconds: float | None = None,
        memory: int | None = None,
        rank: Callable[[bool], int] = lambda writes: 0,
    ):
        self._free, self._length, self._seconds, self._memory, self._rank = free, length, seconds, memory, rank
        # a forgotten stream may leave at any point of this thread: reentrant
        self._changed = threading.Condition(threading.RLock())
        self._inside: dict[Ticket, None] = {}
        self._waiting: list[Ticket] = []
        self._room = 0  # tokens that those inside may take in all
        self._count = 0

    @contextmanager
    def place(self, need: Need | None, writes: bool, check_open: Callable[[], None]) -> Iterator[None]:
        """A place inside, for the block. check_open: raises when the model was closed.

        Raises QueueFull where too many wait, QueueTimeout where it takes too long.
        """
        if self._length is None or need is None:
            yield
            return
        ticket = self._entered(need, writes, check_open)
        try:
            yield
        finally:
            self._leave(ticket)

    def _entered(self, need: Need, writes: bool, check_open: Callable[[], None]) -> Ticket:
        with self._changed:
            self._count += 1
            ticket = Ticket(need, (self._rank(writes), self._count))
            if self._waiting or not self._fits(need):
                self._wait(ticket, check_open)
            if not self._inside:
                self._room = self._free()
            self._inside[ticket] = None
            return ticket

    def _wait(self, ticket: Ticket, check_open: Callable[[], None]) -> None:
        length = self._length or 0
        if len(self._waiting) >= length:
            raise QueueFull(
                f"the queue is full: {len(self._inside)} requests are worked on, {len(self._waiting)} wait, and"
                f" queue_length allows {length} to wait; try again later"
            )
        self._waiting.append(ticket)
        self._waiting.sort(key=lambda one: one.place)
        began = time.monotonic()
        try:
            while self._waiting[0] is not ticket or not self._fits(ticket.need):
                self._changed.wait(self._left(began))
                check_open()
        finally:
            self._waiting.remove(ticket)
            self._changed.notify_all()

    def _left(self, began: float) -> float:
        """Seconds to wait until the next look. Raises QueueTimeout when all have passed."""
        if self._seconds is None:
            return LOOK_UP
        left = began + self._seconds - time.monotonic()
        if left <= 0:
            raise QueueTimeout(
                f"no room was free within {self._seconds:g} seconds (queue_seconds): {len(self._inside)} requests are"
                f" worked on, {len(self._waiting) - 1} others wait; try again later"
            )
        return min(left, LOOK_UP)

    def _fits(self, need: Need) -> bool:
        """Whether a request may begin beside those inside. Alone it always may: what is too large for the model says so
        by itself.

        Those inside are counted with all that they may take, though they have a part of it already.
        """
        if not self._inside:
            return True
        tokens = need.tokens + sum(one.need.tokens for one in self._inside)
        if need.tokens > self._free() or tokens > self._room:
            return False
        needs = [need, *(one.need for one in self._inside)]
        taken = max(one.shared for one in needs) + sum(one.own for one in needs)
        return self._memory is None or taken <= self._memory

    def _leave(self, ticket: Ticket) -> None:
        with self._changed:
            self._inside.pop(ticket, None)
            if ticket.need.keeps:
                self._room -= ticket.need.tokens
            self._changed.notify_all()

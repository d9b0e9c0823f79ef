"""Who may begin: a request enters when the cache and the memory have room for it beside those inside, else it waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from bagel_rt.errors import QueueFull, QueueTimeout
from bagel_rt.events import Progress
from bagel_rt.generation.needs import Need

LOOK_UP = 0.5  # seconds: so often those who wait see whether the model was closed, and tell that they wait


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

    def admitted(
        self, need: Need | None, writes: bool, check_open: Callable[[], None]
    ) -> Generator[Progress, None, Ticket | None]:
        """Wait for a place, which `leave` gives back. check_open: raises when the model was closed.

        While it waits it tells twice a second how many of those before it have entered, so that whoever reads can stop
        waiting: closed, it leaves the line. Raises QueueFull where too many wait, QueueTimeout where it takes too long.
        """
        if self._length is None or need is None:
            return None
        with self._changed:
            self._count += 1
            ticket = Ticket(need, (self._rank(writes), self._count))
            if not self._waiting and self._fits(need):
                self._enter(ticket)
                return ticket
            self._line_up(ticket)
        try:
            yield from self._waited(ticket, check_open)
        finally:
            self._out_of_line(ticket)
        return ticket

    def leave(self, ticket: Ticket | None) -> None:
        """Give a place back."""
        if ticket is not None:
            with self._changed:
                self._inside.pop(ticket, None)
                if ticket.need.keeps:
                    self._room -= ticket.need.tokens
                self._changed.notify_all()

    def _enter(self, ticket: Ticket) -> None:
        if not self._inside:
            self._room = self._free()
        self._inside[ticket] = None

    def _line_up(self, ticket: Ticket) -> None:
        length = self._length or 0
        if len(self._waiting) >= length:
            raise QueueFull(
                f"the queue is full: {len(self._inside)} requests are worked on, {len(self._waiting)} wait, and"
                f" queue_length allows {length} to wait; try again later"
            )
        self._waiting.append(ticket)
        self._waiting.sort(key=lambda one: one.place)

    def _out_of_line(self, ticket: Ticket) -> None:
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            self._changed.notify_all()

    def _waited(self, ticket: Ticket, check_open: Callable[[], None]) -> Generator[Progress, None, None]:
        """Until the ticket is inside."""
        began, most = time.monotonic(), 0
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._is_next(ticket), self._left(began)):
                    self._waiting.remove(ticket)
                    self._enter(ticket)
                    return
                place = self._waiting.index(ticket) + 1
            check_open()
            most = max(most, place)
            yield Progress("waiting", most - place, most)

    def _is_next(self, ticket: Ticket) -> bool:
        return self._waiting[0] is ticket and self._fits(ticket.need)

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

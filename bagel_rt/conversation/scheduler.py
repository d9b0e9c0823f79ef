"""Who of those in streams has the model next, and whose rows go into one call.

There is no thread for this. Whoever wants the next event of a turn comes with it and, where nobody leads, leads: in
rounds, an engine call each, for everybody who waits, until its own event is there; then one of those who wait leads.
A leader advances the turns of others. Texts are evaluated together. Other work, such as a denoising step, is one turn's
in a round, in order of arrival, so that a token waits for one such step at most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from threading import get_ident
from typing import Any, Literal

from bagel_rt.asks import TextRows
from bagel_rt.conversation.gate import Gate
from bagel_rt.conversation.waiting_line import WaitingLine
from bagel_rt.events import Event, ImageReady, TextPiece, Turn

Priority = Literal["tokens", "pictures", "arrival"]
# the share of the time that texts have while pictures are drawn, too
TEXT_SHARE: dict[str, float] = {"tokens": 0.5, "pictures": 0.0, "arrival": 0.0}
# a leader waits for those who read a token just now, and will ask for the next: a share of the last call's time
PATIENCE, LEAST_PATIENCE, MOST_PATIENCE = 0.25, 0.001, 0.05


def rank(priority: Priority, writes: bool) -> int:
    """Of an answer, or a picture: the lowest comes first."""
    return 0 if priority == "arrival" else int(writes != (priority == "tokens"))


@dataclass(frozen=True)
class Finished:
    """A turn ended with a result."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """A turn ended with an error."""

    error: BaseException


Outcome = Event | Finished | Failed


def _locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(eq=False)
class Seat:
    """A turn, and what is known of it here. writes: it is an answer, not a picture."""

    turn: Turn
    writes: bool
    thread: int = 0  # which waits for its next event
    yielded: Any = None  # last
    outcome: Outcome | None = None
    leads: bool = False  # it is this thread's task to lead, which may not know so yet
    gone: bool = False  # nobody waits for the outcome any more
    woken: Any = field(default_factory=_locked)  # released when there is an outcome, or it leads

    @property
    def texts(self) -> bool:
        """Whether its next step is of text: it asks for an evaluation, or will at once."""
        return isinstance(self.yielded, TextRows | TextPiece | ImageReady)

    def step(self, answer: Any = None, error: Exception | None = None) -> None:
        """Advance the turn to the next it yields; an event, and its end, are its outcome."""
        try:
            item = self.turn.send(answer) if error is None else self.turn.throw(error)
        except StopIteration as end:
            self.yielded, self.outcome = None, Finished(end.value)
        except BaseException as failure:
            # without this frame, whose callers lead for others and may run for long
            place = failure.__traceback__
            self.yielded, self.outcome = None, Failed(failure.with_traceback(place and place.tb_next))
        else:
            self.yielded = item
            if isinstance(item, Event):
                self.outcome = item


class Scheduler:
    """The turns of one model. `gate` is its lock; in `line` requests wait that have no room yet."""

    def __init__(self, gate: Gate, priority: Priority = "tokens", line: WaitingLine | None = None):
        self.gate, self.line = gate, line or WaitingLine(lambda: 0)
        self._priority: Priority = priority
        self._share = TEXT_SHARE[priority]
        self._mutex = threading.Lock()  # never waited for inside the gate
        self._back = threading.Condition(self._mutex)
        self._led = False
        self._line: list[Seat] = []  # who came since the last round
        self._here: list[Seat] = []  # the leader's: who else waits
        self._away: set[Seat] = set()  # who was given a token and will be back at once
        self._wrote = False  # the last round was of texts
        self._call = 0.0  # seconds of the last call for texts
        self._texts_until = 0.0  # when pictures have the model again

    def outcome(self, seat: Seat) -> Outcome:
        """The next event of the seat's turn, or its end. Called in any thread, in one at a time for a seat."""
        self.gate.check_open()
        seat.thread, seat.outcome = get_ident(), None
        leads = self._join(seat)
        try:
            while seat.outcome is None:
                if not leads:
                    seat.woken.acquire()
                leads = False
                if seat.outcome is None:
                    self._lead(seat)
        except BaseException:
            self._withdraw(seat)
            raise
        return seat.outcome

    def leave(self, seat: Seat) -> None:
        """The seat's turn will not be advanced again. Takes no lock: the garbage collector may call it anywhere."""
        seat.gone = True
        self._away.discard(seat)

    def _join(self, seat: Seat) -> bool:
        """Come to wait; returns whether the seat leads."""
        with self._mutex:
            self._line.append(seat)
            self._away.discard(seat)
            if self._led and not self._away:
                self._back.notify()
            self._led, leads = True, not self._led
        return leads

    def _withdraw(self, seat: Seat) -> None:
        seat.gone = True
        with self._mutex:
            leads, seat.leads = seat.leads, False
        if leads:
            self._pass_on()

    def _lead(self, own: Seat) -> None:
        own.leads = False

        def rest() -> None:
            own.gone = True
            self._pass_on()

        try:
            while own.outcome is None and not self._better_led(own):
                self._round(rest)
        except BaseException:
            own.gone = True
            raise
        finally:
            self._pass_on()

    def _better_led(self, own: Seat) -> bool:
        """Whether this is the main thread, where signals arrive, and another can lead: no interrupt shall meet the
        turn of a neighbour."""
        main = threading.main_thread().ident
        return own.thread == main and any(seat.thread != main for seat in self._waiting())

    def _waiting(self) -> list[Seat]:
        return [seat for seat in (*self._here, *self._line) if not seat.gone and seat.outcome is None]

    def _pass_on(self) -> None:
        """Let another thread lead, if one waits."""
        main = threading.main_thread().ident
        with self._mutex:
            waiting = self._waiting()
            others = [seat for seat in waiting if seat.thread != main]
            seat = (others or waiting or [None])[0]
            self._led = seat is not None
            if seat is not None:
                seat.leads = True
        if seat is not None:
            seat.woken.release()

    def _round(self, rest: Any) -> None:
        """One call of the engine for those who wait, or one turn's piece of other work."""
        self._gather()
        work = self._next_work() if self._wrote else None
        if work is None:
            self._wait_for_readers()
            texts = [seat for seat in self._here if seat.texts]
            work = None if texts else self._next_work()
        with self.gate.enter(rest):
            self._write() if work is None else self._work(work)

    def _gather(self) -> None:
        with self._mutex:
            self._here = [seat for seat in (*self._here, *self._line) if not seat.gone]
            self._line = []

    def _wait_for_readers(self) -> None:
        """Wait a moment for those who read their last token just now. Who is late is not waited for again."""
        for seat in tuple(self._away):
            if seat.thread == get_ident():  # this thread does not come while it leads
                self._away.discard(seat)
        if self._away:
            moment = min(max(PATIENCE * self._call, LEAST_PATIENCE), MOST_PATIENCE)
            with self._back:
                self._back.wait_for(lambda: not self._away, moment)
                self._away.clear()
            self._gather()

    def _next_work(self) -> Seat | None:
        """Whose turn it is to work, of those who may."""
        works = [seat for seat in self._here if not seat.texts]
        if time.perf_counter() < self._texts_until and (len(works) < len(self._here) or self._away):
            works = [seat for seat in works if seat.writes]
        if self._priority == "tokens":  # else in order of arrival: an answer must begin some time
            works.sort(key=lambda seat: not seat.writes)
        return works[0] if works else None

    def _work(self, seat: Seat) -> None:
        self._wrote, began = False, time.perf_counter()
        self._advance(seat)
        if not seat.writes:
            now = time.perf_counter()
            self._texts_until = now + (now - began) * self._share / (1 - self._share)

    def _write(self) -> None:
        self._wrote, began = True, time.perf_counter()
        for seat in [seat for seat in self._here if seat.texts and not isinstance(seat.yielded, TextRows)]:
            self._advance(seat)
        asking = {seat.yielded: seat for seat in self._here if isinstance(seat.yielded, TextRows)}
        if asking:
            answers = next(iter(asking)).evaluator.together(asking)
            for ask, answer in answers.items():
                if isinstance(answer, Exception):
                    self._advance(asking[ask], error=answer)
                else:
                    self._advance(asking[ask], answer)
        self._call = time.perf_counter() - began

    def _advance(self, seat: Seat, answer: Any = None, error: Exception | None = None) -> None:
        """Advance a turn; with an outcome it waits no more."""
        seat.step(answer, error)
        if seat.outcome is not None:
            self._here.remove(seat)
            if isinstance(seat.outcome, TextPiece) and not seat.gone:
                self._away.add(seat)
            if seat.thread != get_ident():
                seat.woken.release()


@dataclass(frozen=True)
class Queue:
    """Who waits, and who comes first; see api.load."""

    length: int | None = None
    seconds: float | None = None
    priority: Priority = "tokens"

    def scheduler(self, gate: Gate, free: Callable[[], int], memory: int | None) -> Scheduler:
        """free, memory: see WaitingLine."""
        line = WaitingLine(free, self.length, self.seconds, memory, partial(rank, self.priority))
        return Scheduler(gate, self.priority, line)

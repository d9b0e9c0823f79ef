"""Streams: generators of events that have the model only while their next event is computed.

So several streams of one model can be under way, on one thread or many; closing a stream cancels its work.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

from bagel_rt.bare_errors import bare
from bagel_rt.conversation.scheduler import Failed, Finished, Scheduler, Seat
from bagel_rt.errors import InputError
from bagel_rt.events import Done, Event, ImageReady, OnProgress, Turn
from bagel_rt.generation.needs import Need


def stream(
    scheduler: Scheduler, turn: Turn, writes: bool = False, need: Need | None = None
) -> Generator[Event, None, None]:
    """The turn's events, then Done with its result.

    writes: it is an answer, not a picture. need: until there is room for so much it waits; None: it begins at once.
    While it waits its events are Progress("waiting", ...), twice a second.

    Between two events the model is free for other calls. Closing the generator, or an error in whoever reads it, ends
    the turn where it is, and everything it held is given back. An error holds nothing of the turn.
    """
    events = _advanced(scheduler, turn, writes, need)
    del scheduler, turn, need
    try:
        yield from events
    except BaseException as error:
        bare(error)
        raise


def _advanced(scheduler: Scheduler, turn: Turn, writes: bool, need: Need | None) -> Generator[Event, None, None]:
    gate, seat = scheduler.gate, Seat(turn, writes)
    gate.admit(turn, Generator.close)
    try:
        ticket = yield from scheduler.line.admitted(need, writes, gate.check_open)
        try:
            while not isinstance(event := scheduler.outcome(seat), Finished | Failed):
                yield event
        finally:
            scheduler.line.leave(ticket)
        if isinstance(event, Failed):
            raise event.error
    finally:
        seat.outcome = None
        scheduler.leave(seat)
        gate.leave(turn.close)
    yield Done(event.result)


def drain(events: Generator[Event, None, None], on_progress: OnProgress = None, pictures: bool = False) -> Any:
    """Run a stream to its end and return its result; `on_progress` sees what comes before a finished picture, and with
    `pictures` finished ones, too."""
    if on_progress is not None and not callable(on_progress):
        raise InputError(f"on_progress must be a function that takes an event, not {type(on_progress).__name__}")
    with closing(events):
        for event in events:
            if isinstance(event, Done):
                return event.result
            if on_progress is not None and (pictures or not isinstance(event, ImageReady)):
                on_progress(event)
    raise AssertionError("a stream ends with Done")

"""Requests that have no room yet wait for it, so many and so long as is allowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from calls import FAST, same
from threads import at_once

import bagel_rt
from bagel_rt.conversation.waiting_line import WaitingLine
from bagel_rt.events import Progress, finished
from bagel_rt.generation.needs import Need


def never() -> None:
    """A model that is open."""


@contextmanager
def place(line: WaitingLine, need: Need, writes: bool = True) -> Iterator[None]:
    """A place inside, for the block."""
    ticket = finished(line.admitted(need, writes, never))
    try:
        yield
    finally:
        line.leave(ticket)


class Guests:
    """Threads that take places in a line one after another, each as soon as the one before it stands or is inside."""

    def __init__(self, line: WaitingLine):
        self.line, self.inside, self.order, self.leave, self.threads = line, set(), [], {}, []

    def come(self, name: str, tokens: int, writes: bool = True, **need) -> None:
        self.leave[name] = threading.Event()

        def stay() -> None:
            with place(self.line, Need(tokens, **need), writes):
                self.order.append(name)
                self.inside.add(name)
                self.leave[name].wait(30)
                self.inside.discard(name)

        before = len(self.line._waiting), len(self.order)
        self.threads.append(threading.Thread(target=stay, daemon=True))
        self.threads[-1].start()
        self.until(lambda: (len(self.line._waiting), len(self.order)) != before)

    def until(self, true) -> None:
        end = time.monotonic() + 30
        while not true():
            assert time.monotonic() < end
            time.sleep(0.001)

    def go(self, name: str, until) -> None:
        self.leave[name].set()
        self.until(lambda: until <= self.inside and name not in self.inside)

    def end(self) -> None:
        for event in self.leave.values():
            event.set()
        for thread in self.threads:
            thread.join(30)
        assert not self.line._inside
        assert not self.line._waiting


def test_a_request_enters_when_there_is_room_and_nobody_passes_the_first():
    guests = Guests(WaitingLine(lambda: 100, length=9))
    for name, tokens in [("a", 60), ("b", 30), ("c", 50), ("d", 5)]:
        guests.come(name, tokens)
    assert guests.inside == {"a", "b"}
    guests.go("b", {"a"})
    assert guests.inside == {"a"}  # c needs 50, and d does not pass it
    guests.go("a", {"c", "d"})
    guests.end()


def test_answers_wait_before_pictures_where_tokens_come_first():
    guests = Guests(WaitingLine(lambda: 10, length=9, rank=lambda writes: not writes))
    for name, writes in [("first", False), ("picture", False), ("answer", True), ("another", True)]:
        guests.come(name, 10, writes)
    guests.go("first", {"answer"})
    guests.go("answer", {"another"})
    guests.go("another", {"picture"})
    guests.end()


def test_memory_that_requests_share_is_counted_once():
    guests = Guests(WaitingLine(lambda: 1000, length=9, memory=100))
    guests.come("a", 1, own=20, shared=40)
    guests.come("b", 1, own=30, shared=50)
    guests.come("c", 1, own=1, shared=10)
    assert guests.inside == {"a", "b"}
    guests.go("a", {"b", "c"})
    guests.end()


def test_what_is_too_large_for_the_model_enters_alone_to_say_so_itself():
    guests = Guests(WaitingLine(lambda: 10, length=9))
    guests.come("huge", 1000)
    assert guests.inside == {"huge"}
    guests.end()


def test_too_many_and_too_long_are_errors_that_say_it():
    line = WaitingLine(lambda: 10, length=1, seconds=0.05)
    guests = Guests(line)
    guests.come("inside", 10)
    with pytest.raises(
        bagel_rt.QueueTimeout, match=r"within 0\.05 seconds \(queue_seconds\): 1 requests are worked on"
    ):
        with place(line, Need(10)):
            pass
    waiting = WaitingLine(lambda: 10, length=0)
    other = Guests(waiting)
    other.come("inside", 10)
    with pytest.raises(bagel_rt.QueueFull, match="1 requests are worked on, 0 wait, and queue_length allows 0"):
        with place(waiting, Need(1)):
            pass
    guests.end()
    other.end()


def test_sessions_keep_what_their_turns_took():
    guests = Guests(WaitingLine(lambda: 100, length=9))
    guests.come("turn", 60, keeps=True)
    guests.come("other", 30)
    guests.go("turn", {"other"})
    guests.come("large", 50)
    assert guests.inside == {"other"}
    guests.end()


def test_calls_of_a_model_wait_for_the_cache_in_place_of_failing(small_artefact):
    asks = [f"{n} tell" for n in range(5)]
    with bagel_rt.load(small_artefact, "onnxruntime", cache_tokens=96) as bagel:
        alone = [bagel.ask(q, max_tokens=50, seed=1).token_ids for q in asks]
        drawn = bagel.generate("a ring", seed=1, **FAST)
    with bagel_rt.load(small_artefact, "onnxruntime", cache_tokens=96, queue_length=9) as bagel:
        calls = [lambda q=q: bagel.ask(q, max_tokens=50, seed=1).token_ids for q in asks]
        *found, picture = at_once([*calls, lambda: bagel.generate("a ring", seed=1, **FAST)])
        assert found == alone
        assert same(picture, drawn)
        assert bagel.free_tokens == 96
    with bagel_rt.load(small_artefact, "onnxruntime", cache_tokens=96, queue_length=1) as bagel:
        calls = [lambda q=q: bagel.ask(q, max_tokens=50, seed=1).token_ids for q in asks]
        refused = [one for one in at_once(calls) if isinstance(one, bagel_rt.QueueFull)]
        assert 0 < len(refused) < 5
        events = bagel.stream("a", "text", max_tokens=90, seed=1)
        next(events)
        second = bagel.stream("b", "text", max_tokens=90, seed=1)
        events.close()  # gives its place back
        next(second)
        bagel.close()
        with pytest.raises(bagel_rt.BagelError, match="was closed"):
            next(second)


def test_closing_the_model_ends_those_who_wait_in_line(small_artefact):
    bagel = bagel_rt.load(small_artefact, "onnxruntime", cache_tokens=96, queue_length=9)
    events = bagel.stream("a", "text", max_tokens=90, seed=1)
    next(events)

    def close():
        while not bagel._scheduler.line._waiting:
            time.sleep(0.001)
        bagel.close()

    waited, none = at_once([lambda: bagel.ask("b", max_tokens=90, seed=1), close])
    assert none is None
    assert "this model was closed" in str(waited)


def test_who_waits_is_told_how_the_line_moves_and_can_stop_waiting_from_another_thread(small_artefact):
    with bagel_rt.load(small_artefact, "onnxruntime", cache_tokens=96, queue_length=9) as bagel:
        first, second = (bagel.stream(one, "text", max_tokens=90, seed=1) for one in "ab")
        next(first)
        told, stop = [], threading.Event()

        def stopped(event):
            told.append(event)
            assert not stop.is_set()

        def give_up():
            while len(told) < 2:
                time.sleep(0.001)
            stop.set()

        def wait_behind():
            while not bagel._scheduler.line._waiting:
                time.sleep(0.001)
            return next(bagel.stream("c", "text", max_tokens=90, seed=1))

        waited, _, behind = at_once(
            [lambda: bagel.ask("b", max_tokens=90, seed=1, on_progress=stopped), give_up, wait_behind]
        )
        assert isinstance(waited, AssertionError)
        assert told[0] == Progress("waiting", 0, 1)
        assert behind == Progress("waiting", 0, 2) or behind == Progress("waiting", 1, 2)
        assert not bagel._scheduler.line._waiting
        first.close()
        assert isinstance(next(second), bagel_rt.TextPiece)


@pytest.mark.parametrize("bad", [{"queue_length": -1}, {"queue_seconds": 0}, {"priority": "nobody"}])
def test_a_queue_that_makes_no_sense_is_refused(small_artefact, bad):
    with pytest.raises(bagel_rt.InputError, match=next(iter(bad))):
        bagel_rt.load(small_artefact, **bad)

"""A run is captured once TensorRT has finished its kernels, found again by its places, and given up where it pays
nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bagel_engines import EngineFailure
from bagel_engines.tensorrt.recordings import KEPT, REMEMBERED, SETTLING, WASTED, WORTH, Recordings, Repeated


class Run:
    """In the places of Bindings and of a stream: what was done with it, in order."""

    def __init__(self, log: list, capturable: bool = True):
        self.log, self._capturable = log, capturable

    def run(self) -> None:
        self.log.append("ordinary")

    def capturable(self) -> bool:
        return self._capturable

    def capture(self, work: Callable[[], None]):
        self.log.append("captured")
        return Run(self.log)

    def __call__(self) -> None:
        self.log.append("played")

    def close(self) -> None:
        self.log.append("closed")


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def recordings(told) -> Recordings:
    return Recordings(told.append)


def done(recordings: Recordings, places: object, log: list, capturable: bool = True) -> list:
    """What one more run on these places does."""
    before, run = len(log), Run(log, capturable)
    recordings.run("graph", places, lambda: log.append("plain"), lambda: Repeated(run, run, "graph"))  # type: ignore[arg-type]
    return log[before:]


def test_a_run_is_ordinary_until_its_kernels_are_finished_then_captured_once_and_played(recordings):
    log: list[str] = []
    assert done(recordings, 1, log) == ["plain"]
    assert [done(recordings, 1, log) for _ in range(SETTLING)] == [["ordinary"]] * SETTLING
    assert SETTLING >= 2
    assert done(recordings, 1, log) == ["captured", "played"]
    assert done(recordings, 1, log) == ["played"]
    assert done(recordings, 2, log) == ["plain"]  # other places
    recordings.close()
    assert log[-1] == "closed"
    assert done(recordings, 1, log) == ["ordinary"]


def test_what_cannot_be_captured_runs_plainly_from_then_on(recordings, told):
    log: list[str] = []
    for _ in range(1 + SETTLING):
        done(recordings, 1, log, capturable=False)
    assert done(recordings, 1, log, capturable=False) == ["plain"]
    assert told[-1] == "CUDA graphs, but not of graph: graph 'graph' cannot be captured, says TensorRT-RTX"
    with recordings.marked():
        assert recordings.active("other")
        assert not recordings.active("graph")


def test_recordings_that_are_dropped_before_they_pay_are_given_up(recordings, told):
    log: list[str] = []
    for places in range(KEPT + WASTED):
        for _ in range(1 + SETTLING + WORTH - 1):
            done(recordings, places, log)
    assert told == ["CUDA graphs"]
    for _ in range(2):
        done(recordings, "one more", log)
    assert told[-1] == "CUDA graphs, but not of graph: its arrays lie in other places each time"
    assert log.count("captured") == log.count("closed")  # none is kept of a graph that is given up


def test_recordings_that_paid_are_dropped_without_a_word(recordings, told):
    log: list[str] = []
    for places in range(2 * (KEPT + WASTED)):
        for _ in range(1 + SETTLING + WORTH):
            done(recordings, places, log)
    assert told == ["CUDA graphs"]
    assert log.count("captured") - log.count("closed") == KEPT


def test_places_that_were_seen_long_ago_are_forgotten(recordings):
    log: list[str] = []
    for places in range(REMEMBERED + 1):
        done(recordings, places, log)
    assert done(recordings, 0, log) == ["plain"]
    assert done(recordings, REMEMBERED, log) == ["ordinary"]


def test_an_error_of_the_run_itself_is_raised(recordings):
    def fail() -> None:
        raise EngineFailure("no")

    with pytest.raises(EngineFailure, match=r"^no$"):
        recordings.run("graph", 1, fail, lambda: pytest.fail("made"))

"""Long work says how far it is, on a terminal and in a pipe."""

from __future__ import annotations

import sys

import pytest

from bagel_rt.cli import progress
from bagel_rt.cli.progress import Bars
from bagel_rt.events import Progress


@pytest.fixture
def clock(monkeypatch):
    """A list whose last number is the time in seconds."""
    times = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[-1])
    return times


def test_in_a_pipe_a_line_comes_now_and_then_whatever_the_stage(capsys, clock):
    with Bars(bytes_in=("weights",)) as bars:
        for second in range(1, 36):
            clock.append(second)
            stage = "weights" if second < 15 else "graphs"
            bars(Progress(stage, second * 2**20, 100 * 2**20) if stage == "weights" else Progress(stage, second, 40))
    assert capsys.readouterr().err.splitlines() == [
        "bagel-rt: weights 10 of 100 MiB",
        "bagel-rt: graphs 20/40",
        "bagel-rt: graphs 30/40",
    ]


def test_short_work_says_nothing_in_a_pipe(capsys, clock):
    with Bars() as bars:
        for second in range(9):
            clock.append(second)
            bars(Progress("drawing", second, 9))
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar_per_stage(capsys, clock, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Bars() as bars:
        for stage in ("drawing", "decoding"):
            for done in range(4):
                clock.append(clock[-1] + 20)
                bars(Progress(stage, done, 3))
    err = capsys.readouterr().err
    assert "drawing: 100%" in err
    assert "decoding: 100%" in err
    assert "bagel-rt:" not in err

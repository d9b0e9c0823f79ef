"""Long work says how far it is, on a terminal and in a pipe."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

import bagel_rt
from bagel_engines.onnxruntime.device_engine import on_host
from bagel_rt.cli import progress
from bagel_rt.cli.progress import Bars, loading
from bagel_rt.events import Progress


@pytest.fixture
def clock(monkeypatch):
    """A list whose last number is the time in seconds."""
    times = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: times[-1]))
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


def test_weights_on_their_way_to_a_device_are_counted_in_bytes_graph_by_graph(monkeypatch, capsys, small_artefact):
    monkeypatch.setattr("bagel_rt.cli.progress.QUIET", 0)
    given = []
    monkeypatch.setattr("bagel_rt.api.open_engine", lambda *how: given.append(how[2].on_weights) or on_host())
    with bagel_rt.load(small_artefact, on_progress=loading()):
        given[0]("und_step", 1 << 30, 3 << 30)
        given[0]("gen_step", 2 << 30, 2 << 30)
    assert capsys.readouterr().err.splitlines() == [
        "bagel-rt: loading und_step 1024 of 3072 MiB",
        "bagel-rt: loading gen_step 2048 of 2048 MiB",
    ]

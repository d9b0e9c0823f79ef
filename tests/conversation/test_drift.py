"""The short form of bench/drift.py: calls of each kind, and models opened and closed, leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.drift import drift, lost

ROOT = Path(__file__).parents[2]
NOTHING = {"threads_left": 0, "descriptors_left": 0, "pages_back": True, "drift_of_the_second_half": 0.0}


def measured(engine: str, part: str, *counts: str) -> dict:
    command = [sys.executable, "-m", "bench.drift", "--engines", engine, "--part", part, *counts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_calls_of_every_kind_leave_no_page_thread_or_descriptor(engine):
    found = measured(engine, "calls", "--calls", "8")
    assert found["kinds"] == ["generate", "edit", "ask", "turn"]
    assert (found["pages_back"], found["threads_left"], found["descriptors_left"]) == (True, 0, 0)
    assert found["mib_last"] < 1.2 * found["mib_first"]  # caches fill; the long form sees whether they go on


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_model_that_was_opened_and_closed_leaves_no_thread_descriptor_or_memory(engine):
    found = measured(engine, "handles", "--handles", "6")
    assert (found["threads_left"], found["descriptors_left"]) == (0, 0)
    assert found["mib_last"] < 1.03 * found["mib_after_a_tenth"]


@pytest.mark.parametrize(
    "fault", [{"threads_left": 1}, {"descriptors_left": 2}, {"pages_back": False}, {"drift_of_the_second_half": 0.011}]
)
def test_whatever_is_lost_is_seen(fault):
    assert not lost(NOTHING)
    assert lost({**NOTHING, **fault})


def test_drift_compares_the_ends_of_the_second_half():
    assert drift([9, 9, 9, 9, 100, 100, 102, 102]) == 0.02
    assert drift([1, 2, 3, 4, 5, 5, 5, 5]) == 0.0

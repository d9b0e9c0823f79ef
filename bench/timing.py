"""Timing several ways to do one thing side by side, for benchmarks."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bagel_engines.diagnosis import packages
from bagel_rt.estimate.machine import machine as of_machine

ENGINES = ("openvino", "onnxruntime", "torch")
Taken = dict[str, list[float]]
TURN = 0.3  # seconds: a shorter run is repeated until so much time has passed


def kept_results(out: Path | None) -> Any:
    """The "results" of a file that earlier runs wrote; None where there is none."""
    return json.loads(out.read_text(encoding="utf-8"))["results"] if out is not None and out.exists() else None


def seconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def turn(run: Callable) -> float:
    """Seconds of a run, the median of those that fit into a turn.

    A single short run would measure how long the threads of another library, still spinning after its run, disturb it.
    """
    taken = [seconds(run)]
    while sum(taken) < TURN:
        taken.append(seconds(run))
    return statistics.median(taken)


def alternating(runs: Mapping[str, Callable], rounds: int, warm: bool = True) -> Taken:
    """Seconds of every round by name, a turn of each. warm: one more round before, which is not counted."""
    taken: Taken = {name: [] for name in runs}
    for i in range(rounds + warm):
        for name, run in runs.items():
            took = turn(run)
            if i >= warm:
                taken[name].append(took)
    return taken


def kept(runs: Mapping[str, Callable[[], Any]], into: dict[str, Any]) -> dict[str, Callable[[], None]]:
    """The same runs, each storing its latest result in `into`."""

    def keeping(name: str, run: Callable[[], Any]) -> Callable[[], None]:
        def go() -> None:
            into[name] = run()

        return go

    return {name: keeping(name, run) for name, run in runs.items()}


def against(taken: Taken, base: str) -> dict[str, dict[str, Any]]:
    """For each name the median in milliseconds, and the median of its ratios to `base`, taken round by round."""
    return {
        name: {
            "ms": round(1000 * statistics.median(values), 2),
            "ratio": round(statistics.median(b / a for a, b in zip(taken[base], values, strict=True)), 3),
        }
        for name, values in taken.items()
    }


def finish(report: Mapping[str, Any], out: Path | None) -> None:
    """The report as a file, where one is asked for, and as the last line."""
    if out:
        save(report, out)
    print(json.dumps(report))


def save(report: Mapping[str, Any], out: Path) -> None:
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """What a result was measured on, its CPU's model and instructions included, and of which commit it is."""
    versions = {name: version for name, version in packages().items() if name in ENGINES}
    return {**of_machine(), "python": platform.python_version(), "versions": versions, "commit": commit()}


def commit() -> str | None:
    """The commit that is checked out, "+ changes" where files differ from it; None outside a repository."""
    try:
        name, changed = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{name} + changes" if changed else name


def _git(*words: str) -> str:
    folder = Path(__file__).parent
    return subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, text=True).stdout.strip()

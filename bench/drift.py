"""Does a process grow that works for long?  python bench/drift.py [--calls N] [--handles N] [--engines ...] [--out F]

On each CPU engine, in a process of its own: so many calls of each kind in turn (a picture, an edit, an answer, a turn
of a session), then so many models opened and closed, one call each. Memory is what is the process's own (USS), after
freed memory was given back. Told are its drift, the mean of the last quarter over that of the third, and which pages,
threads and file descriptors are left. `--part alone` compiles the largest graph as often with OpenVINO itself and none
of our code around it: what that keeps, nothing here could give back. Ends in one JSON line, and with 1 where something
was lost.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

import bagel_rt
from bagel_engines.host_memory import trim
from bagel_rt.api import Bagel
from bagel_rt.artefact.folders import BUNDLED
from bench.timing import finish, machine

ENGINES = ("onnxruntime", "openvino")
DRAW: dict[str, Any] = {"height": 32, "width": 32, "num_timesteps": 3, "seed": 1}
TOKENS = 4
MOST = 0.01  # drift that is taken for none
READINGS = 80  # of memory, over all calls
PARTS = ("calls", "handles")
MIB = 2**20


def held() -> dict[str, float]:
    """What the process has now."""
    gc.collect()
    trim()
    process = psutil.Process()
    mib = process.memory_full_info().uss / MIB
    return {"mib": round(mib, 2), "threads": process.num_threads(), "descriptors": process.num_fds()}


def kinds(bagel: Bagel) -> dict[str, Callable[[], Any]]:
    source = bagel.generate("a red ring", **DRAW).image

    def turn() -> None:
        with bagel.session(seed=1) as session:
            session.add_text("a blue square")
            session.generate_text(max_tokens=TOKENS)

    return {
        "generate": lambda: bagel.generate("a red ring", **DRAW),
        "edit": lambda: bagel.edit(source, "make it blue", **DRAW),
        "ask": lambda: bagel.ask("what is it?", source, max_tokens=TOKENS),
        "turn": turn,
    }


def drift(readings: list[float]) -> float:
    """How the end of the second half compares with its beginning."""
    half = readings[len(readings) // 2 :]
    part = max(1, len(half) // 2)
    first, last = (sum(values) / len(values) for values in (half[:part], half[-part:]))
    return round(last / first - 1, 5)


def calls(model: str, engine: str, count: int) -> dict[str, Any]:
    """So many calls of each kind, in turn."""
    began = time.monotonic()
    with bagel_rt.load(model, engine) as bagel:
        free, run = bagel.free_tokens, kinds(bagel)
        for one in run.values():
            one()
        start, readings = held(), []
        every = max(1, count // READINGS)
        for i in range(count):
            for one in run.values():
                one()
            if i % every == every - 1:
                readings.append(held()["mib"])
        end = held()
        bagel._turns.pool.table.check_integrity()
        return {
            "kinds": [*run],
            "calls_of_each": count,
            "seconds": round(time.monotonic() - began, 1),
            "mib_first": start["mib"],
            "mib_middle": readings[len(readings) // 2],
            "mib_last": end["mib"],
            "drift_of_the_second_half": drift(readings),
            "pages_back": bagel.free_tokens == free,
            "threads_left": int(end["threads"] - start["threads"]),
            "descriptors_left": int(end["descriptors"] - start["descriptors"]),
        }


def handles(model: str, engine: str, count: int) -> dict[str, Any]:
    """A model opened and closed so often, an answer each time."""

    def once() -> None:
        with bagel_rt.load(model, engine) as bagel:
            bagel.ask("what is it?", max_tokens=TOKENS)

    return again_and_again(once, count)


def alone(count: int) -> dict[str, Any]:
    """gen_step of the bundled model compiled so often by OpenVINO."""
    import openvino

    core, graph = openvino.Core(), str(BUNDLED / "gen_step.onnx")
    return again_and_again(lambda: core.compile_model(core.read_model(graph), "CPU").create_infer_request(), count)


def again_and_again(once: Callable[[], Any], count: int) -> dict[str, Any]:
    """What is left of doing something so often and letting it go."""
    began, first = time.monotonic(), []
    for _ in range(max(2, count // 10)):
        once()
        first.append(held())
    start, readings = held(), []
    for _ in range(count - len(first)):
        once()
        readings.append(held()["mib"])
    end = held()
    return {
        "opened_and_closed": count,
        "seconds": round(time.monotonic() - began, 1),
        "mib_after_a_tenth": start["mib"],
        "mib_last": end["mib"],
        "drift_of_the_second_half": drift(readings),
        "threads_left": int(end["threads"] - start["threads"]),
        "descriptors_left": int(end["descriptors"] - start["descriptors"]),
    }


def lost(found: dict[str, Any]) -> bool:
    grown = found["drift_of_the_second_half"] > MOST
    return grown or found["threads_left"] > 0 or found["descriptors_left"] > 0 or not found.get("pages_back", True)


def measured(args: argparse.Namespace) -> dict[str, Any]:
    if args.part == "alone":
        return alone(args.handles)
    measure, count = (calls, args.calls) if args.part == "calls" else (handles, args.handles)
    return measure(args.model, args.engines[0], count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bagel-nano")
    parser.add_argument("--engines", nargs="+", default=[*ENGINES], choices=ENGINES)
    parser.add_argument("--calls", type=int, default=2000, help="of each kind")
    parser.add_argument("--handles", type=int, default=200)
    parser.add_argument("--part", choices=(*PARTS, "alone"), help="one measurement, in this process")
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    if args.part:
        print(json.dumps(measured(args)))
        return
    results = {f"{engine}, {part}": _apart(args, engine, part) for engine in args.engines for part in PARTS}
    report = {"question": "what long work leaves in a process", "model": args.model, "results": results}
    finish(report | machine(), args.out)
    sys.exit(any(map(lost, results.values())))


def _apart(args: argparse.Namespace, engine: str, part: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.drift", "--part", part, "--engines", engine, "--model", args.model]
    command += ["--calls", str(args.calls), "--handles", str(args.handles)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()

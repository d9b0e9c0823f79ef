"""PyTorch in a process of its own, in every form it has: the peer that benchmarks compare engines with.

A thread pool that still spins would slow down what runs beside it, so the peer shares no process with an engine. A
benchmark's module makes the runs (`serve`); its main process asks for them by name (`Peer`). Requests and answers are
lines of JSON on stdin and stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo

from bagel_engines.host_cpus import own_cpus
from bagel_rt.estimate.machine import cpu

TORCH, ROUNDED = "torch", "torch int8"
Form = tuple[str, bool, int]  # number format, compiled, threads
Run = Callable[[], np.ndarray | None]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def forms(compiled: bool = True, int8: bool = True) -> list[Form]:
    """What PyTorch can be asked for on this CPU: eager and compiled, with each number of threads.

    bfloat16 only where the CPU has it: elsewhere it is emulated, at several times float32's time. int8: of Linears,
    with rows rounded per tensor (torch.ao).
    """
    formats = ["float32", *(["int8"] if int8 else []), *(["bfloat16"] if "bf16" in cpu()[1] else [])]
    kinds = (False, True) if compiled else (False,)
    return [(name, kind, threads) for name in formats for kind in kinds for threads in range(1, own_cpus() + 1)]


def spoken(form: Form) -> str:
    name, compiled, threads = form
    return f"torch {name}, {'compiled' if compiled else 'eager'}, {threads} thread{'s' if threads > 1 else ''}"


class Peer:
    """The process, as its user sees it. module: one that calls `serve`; words: its arguments."""

    def __init__(self, module: str, *words: str):
        command = [sys.executable, "-m", module, *words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, work: str, form: Form, file: Path | None = None) -> float:
        """Run a work once; seconds, as the process timed it. file: takes what the run gave, as numpy's .npy.

        Raises RuntimeError for a form that PyTorch refuses.
        """
        return self._asked({"work": work, "form": form, "file": str(file) if file else None})["seconds"]

    def result(self, work: str, form: Form, file: Path) -> np.ndarray:
        """What a run gives, by way of a file that is left there."""
        self.run(work, form, file)
        return np.load(file)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def best_forms(peer: Peer, work: str, among: Iterable[Form]) -> tuple[dict[str, Form], dict[str, float | str]]:
    """The fastest form that computes in float32 or bfloat16, as "torch", and the fastest in int8, as "torch int8".

    Each is run twice. Also the milliseconds of all, or why a form does not run.
    """
    best: dict[str, tuple[float, Form]] = {}
    told: dict[str, float | str] = {}
    for form in among:
        kind = ROUNDED if form[0] == "int8" else TORCH
        try:
            peer.run(work, form)  # compiles
            took = peer.run(work, form)
        except RuntimeError as error:
            told[spoken(form)] = str(error)
            continue
        told[spoken(form)] = round(1000 * took, 2)
        best[kind] = min(best.get(kind, (took, form)), (took, form))
    return {kind: form for kind, (_, form) in best.items()}, told


def serve(prepared: Callable[[str, str, bool], Run]) -> None:
    """Answer requests until stdin ends. prepared: the run of a work in a number format, compiled or not."""
    # every format and size of a work compiles the same code anew; past the default of 8 PyTorch would run it uncompiled
    torch._dynamo.config.recompile_limit = 64
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_answer(prepared, **request)), flush=True)


def _answer(
    prepared: Callable[[str, str, bool], Run], work: str, form: list[Any], file: str | None = None
) -> dict[str, Any]:
    name, compiled, threads = form
    torch.set_num_threads(threads)
    try:
        run = prepared(work, name, compiled)
        started = time.perf_counter()
        found = run()
        took = time.perf_counter() - started
    except Exception as error:  # whatever a form that PyTorch lacks raises
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    if file and found is not None:
        np.save(file, found)
    return {"seconds": took}

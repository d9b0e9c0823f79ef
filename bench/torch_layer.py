"""PyTorch's layer in a process of its own, in every form it has: the peer of bench/layers.py.

A thread pool that still spins would slow down what runs beside it, so the peer shares no process with an engine. The
forms: float32, bfloat16 where the CPU has it (elsewhere it is emulated, at several times float32's time), int8 with
rows rounded per tensor (torch.ao); eager and compiled; with each number of threads. Requests and answers are lines of
JSON on stdin and stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bagel_engines.host_cpus import own_cpus
from bagel_export.artefact.export import model_dims
from bagel_export.checkpoint.open import open_checkpoint
from bagel_rt.estimate.machine import cpu

Form = tuple[str, bool, int]  # number format, compiled, threads


def forms(compiled: bool = True) -> list[Form]:
    """What PyTorch can be asked for on this CPU."""
    formats = ["float32", "int8", *(["bfloat16"] if "bf16" in cpu()[1] else [])]
    kinds = (False, True) if compiled else (False,)
    return [(name, kind, threads) for name in formats for kind in kinds for threads in range(1, own_cpus() + 1)]


def spoken(form: Form) -> str:
    name, compiled, threads = form
    return f"torch {name}, {'compiled' if compiled else 'eager'}, {threads} thread{'s' if threads > 1 else ''}"


class Peer:
    """The process, as its user sees it."""

    def __init__(self, checkpoint: Path, small: bool):
        words = [sys.executable, "-m", "bench.torch_layer", str(checkpoint), *(["--small"] if small else [])]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, work: str, form: Form) -> float:
        """Run a work once; seconds, as the process timed it. Raises RuntimeError for a form that PyTorch refuses."""
        answer = self._asked({"work": work, "form": form})
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["seconds"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def best_form(peer: Peer, work: str, compiled: bool = True) -> tuple[Form, dict[str, float | str]]:
    """The fastest form for a work, each run twice; and the milliseconds of all, or why a form does not run."""
    took: dict[Form, float] = {}
    told: dict[str, float | str] = {}
    for form in forms(compiled):
        try:
            peer.run(work, form)  # compiles
            took[form] = peer.run(work, form)
            told[spoken(form)] = round(1000 * took[form], 2)
        except RuntimeError as error:
            told[spoken(form)] = str(error)
    return min(took, key=lambda form: took[form]), told


def main() -> None:
    from bench.layers import SMALL_WORKS, WORKS, Torch, arrays, seconds

    checkpoint = open_checkpoint(Path(sys.argv[1]))
    works = {work.name: work for work in (SMALL_WORKS if "--small" in sys.argv else WORKS)}
    dims = model_dims(checkpoint)
    layers: dict[tuple[str, bool], Torch] = {}
    ready: dict[tuple[str, str, bool], Callable] = {}

    def prepared(work: str, name: str, compiled: bool) -> Callable:
        if (name, compiled) not in layers:
            layers[name, compiled] = Torch(checkpoint, name, compiled)
        if (work, name, compiled) not in ready:
            ready[work, name, compiled] = layers[name, compiled].prepared(arrays(works[work], dims))
        return ready[work, name, compiled]

    for line in sys.stdin:
        request = json.loads(line)
        name, compiled, threads = request["form"]
        torch.set_num_threads(threads)
        try:
            answer: dict[str, Any] = {"seconds": seconds(prepared(request["work"], name, compiled))}
        except Exception as error:  # whatever a form that PyTorch lacks raises
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""Runs each graph of artefacts once on ONNX Runtime's CUDA provider over the stand-in and tells what came of it.

run_graphs.py ARTEFACT... [shared]     one JSON line for each graph, and each form the engine has of it

Run it with onnxruntime-gpu first on the path and the stand-in's folder in LD_LIBRARY_PATH. Loading proves little: some
kernels refuse what they are given only when they run. Numbers are rubbish; refusals, placement and counts are real.
shared: as in run_calls.py; without it there is no form that multiplies fp8 weights as they are.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import bindings
import numpy as np
import onnx

from bagel_engines import open_engine
from bagel_engines.onnxruntime.cuda_form import STEPS
from bagel_engines.onnxruntime.masked_runner import MANY, MANY_DRAW, MANY_ROWS, OTHER, MaskedRunner
from bagel_engines.onnxruntime.shared_weights import SharedWeights
from bagel_engines.settings import Settings

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": np.uint16,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
SIZES = {"past": 5, "und_rows": 2, "gen_rows": 16, "rows": 16, "columns": 16, "patches": 16}
PLACED = re.compile(r"(?:Node\(s\) placed on|All nodes placed on) \[(\w+)\]")
NODE = re.compile(r"VerifyEachNodeIsAssignedToAnEp\]\s+(\S+) \(")
PRODUCTS = ("DequantizeLinear", "MatMulNBits", "Gemm", "MatMul", "MatMulInteger")
COUNTED = (*PRODUCTS, "MatMulBlockQuantizedFp8Weight", "GemmFloat8", "GroupNorm", "SkipGroupNorm", "NhwcConv", "Conv")


def journal() -> list[str]:
    """What was done since the last call."""
    library = ctypes.CDLL("libstandin.so")
    library.journal_take.restype = ctypes.c_size_t
    room = library.journal_take(None, ctypes.c_size_t(0)) + (1 << 16)
    buffer = ctypes.create_string_buffer(room)
    length = library.journal_take(buffer, ctypes.c_size_t(room))
    return buffer.raw[:length].decode(errors="replace").splitlines()


def counts(lines: list[str]) -> dict[str, int]:
    """How many lines there are of each kind: kernel, product, copy and its direction, synchronise, malloc."""
    words = (line.split() for line in lines if line)
    return dict(Counter(f"{w[0]} {w[1]}" if w[0] in ("copy", "FORBIDDEN") else w[0] for w in words if w[0] != "call"))


def engine_of(artefact: Path, graphs: bool) -> Any:
    """The engine as the product opens it, that logs where nodes go. graphs: with CUDA graphs."""
    stated = json.loads((artefact / "bagel_rt.json").read_text(encoding="utf-8"))["arithmetic"]
    engine: Any = open_engine("onnxruntime", "cuda", Settings(stated=stated, cuda_graphs=graphs))
    made = engine._options

    def options() -> Any:
        found = made()
        found.log_severity_level, found.log_verbosity_level = 0, 1
        return found

    engine._options = options
    return engine


def forms_of(engine: Any, graph: Path) -> tuple[str, ...]:
    """The kinds of masks that there is a form of a graph for."""
    if graph.stem not in STEPS or not isinstance(loaded := engine.load(graph), MaskedRunner):
        return (OTHER,)
    return (OTHER, *loaded._possible)


def tried(graph: Path, form: str) -> dict[str, Any]:
    """One form of a graph loaded and run: where its nodes went, which products it became, what was launched, or the
    refusal."""
    engine = engine_of(graph.parent, graphs=False)
    found: dict[str, Any] = {"artefact": graph.parent.name, "graph": graph.stem, "form": form}
    with _standard_error() as log:
        try:
            runner = engine._runner(graph, form)
        except Exception as error:
            return {**found, "refused": f"loading: {error}"[:500]}
        finally:
            found["on_cpu"] = _on_cpu(log())
    found["nodes"] = _nodes(graph, engine._form(graph, form))
    journal()
    try:
        _run(runner, many=form in (MANY, MANY_DRAW))
    except Exception as error:
        return {**found, "refused": f"running: {error}"[:600]}
    return {**found, "done": counts(journal()), "not_captured": _refusal_of_capture(graph, form)}


def _refusal_of_capture(graph: Path, form: str) -> str:
    """Why onnxruntime does not capture a graph; nothing where it does, or where the engine does not ask for it."""
    with _standard_error():
        capture = engine_of(graph.parent, graphs=True)._runner(graph, form)._capture
    return (capture.refusal or "")[:300] if capture else ""


class _standard_error:
    """The process's standard error in a file: onnxruntime writes its log there."""

    def __enter__(self):
        self._kept, self._file = os.dup(2), tempfile.TemporaryFile()
        os.dup2(self._file.fileno(), 2)
        return self._read

    def __exit__(self, *_: object) -> None:
        os.dup2(self._kept, 2)
        os.close(self._kept)
        self._file.close()

    def _read(self) -> list[str]:
        self._file.seek(0)
        return self._file.read().decode(errors="replace").splitlines()


def _on_cpu(lines: list[str]) -> dict[str, int]:
    """Kinds of nodes on the CPU and how many there are of each."""
    where, found = "", Counter()
    for line in lines:
        if placed := PLACED.search(line):
            where = placed[1]
        elif (node := NODE.search(line)) and where == "CPUExecutionProvider":
            found[node[1]] += 1
    return dict(found)


def _nodes(graph: Path, form: Any) -> dict[str, int]:
    """How many nodes of some kinds the session is given."""
    model = onnx.load(str(graph), load_external_data=False) if form is None else onnx.load_from_string(form.model)
    kinds = Counter(node.op_type for node in model.graph.node)
    return {kind: kinds[kind] for kind in COUNTED if kinds[kind]}


def _run(runner: Any, many: bool) -> None:
    sizes, given = SIZES | ({"gen_rows": MANY_ROWS} if many else {}), {}
    for tensor in runner._session.get_inputs():
        if tensor.name not in runner.inputs:
            continue
        shape = [d if isinstance(d, int) else sizes.get(d, 16) for d in tensor.shape]
        if tensor.name == "pool":
            shape[0] = 16 * runner._lengths._halves
        if tensor.name == "mask":
            shape[1] = sum(sizes[part] for part in str(tensor.shape[1]).split(" + "))
        given[tensor.name] = np.ones(shape, np.bool_) if tensor.name == "mask" else np.zeros(shape, TYPES[tensor.type])
    runner.run(given, runner.outputs, runner.outputs)


def main(*words: str) -> None:
    bindings.install()
    if "shared" in words:
        SharedWeights._read_in_place = lambda self: True
    for artefact in (Path(word) for word in words if word != "shared"):
        for graph in sorted(artefact.glob("*.onnx")):
            for form in forms_of(engine_of(artefact, graphs=False), graph):
                print(json.dumps(tried(graph, form)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

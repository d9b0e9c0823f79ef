"""Runs each graph of artefacts once on ONNX Runtime's CUDA provider over the stand-in and tells what came of it.

run_graphs.py ARTEFACT...     one JSON line for each graph

Run it with onnxruntime-gpu first on the path and the stand-in's folder in LD_LIBRARY_PATH. Loading proves little: some
kernels refuse what they are given only when they run. Numbers are rubbish; refusals, placement and counts are real.
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

import numpy as np
import onnxruntime

from bagel_engines.onnxruntime.device_engine import opened_on_device, options_of_device, with_graphs
from bagel_engines.onnxruntime.pool_half import with_half_as_input
from bagel_engines.onnxruntime.prepared_graph import WEIGHTS_BESIDE
from bagel_engines.onnxruntime.widened_resize import with_wide_resize

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": np.uint16,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
BFLOAT16 = 16
SIZES = {"past": 5, "und_rows": 2, "gen_rows": 16, "rows": 16, "columns": 16, "patches": 16}
PLACED = re.compile(r"(?:Node\(s\) placed on|All nodes placed on) \[(\w+)\]")
NODE = re.compile(r"VerifyEachNodeIsAssignedToAnEp\]\s+(\S+) \(")
COUNTED = ("DequantizeLinear", "MatMulNBits", "Gemm", "MatMul", "MatMulInteger")
PROVIDERS = [("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"}), "CPUExecutionProvider"]


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


def tried(graph: Path, folder: Path) -> dict[str, Any]:
    """One graph loaded and run: where its nodes went, which products it became, what was launched, or the refusal."""
    optimised = folder / f"{graph.stem}.onnx"
    options = options_of_device(onnxruntime)
    options.log_severity_level, options.log_verbosity_level = 0, 1
    options.optimized_model_filepath = str(optimised)
    found: dict[str, Any] = {"artefact": graph.parent.name, "graph": graph.stem}
    with _standard_error() as log:
        try:
            session = opened_on_device(onnxruntime, _as_loaded(graph, options), options, PROVIDERS)
        except Exception as error:
            return {**found, "refused": f"loading: {error}"[:500]}
        finally:
            found["on_cpu"] = _on_cpu(log())
    found["nodes"] = _nodes(optimised)
    journal()
    try:
        _run(session)
    except Exception as error:
        return {**found, "refused": f"running: {error}"[:600]}
    return {**found, "done": counts(journal()), "not_captured": _refusal_of_capture(graph)}


def _refusal_of_capture(graph: Path) -> str:
    """Why onnxruntime does not capture a graph as the engine gives it then; nothing where it does."""
    options = options_of_device(onnxruntime)
    options.add_session_config_entry(WEIGHTS_BESIDE, str(graph.parent))
    model = with_half_as_input(graph) or _as_loaded(graph, options)
    try:
        opened_on_device(onnxruntime, model, options, [with_graphs(provider) for provider in PROVIDERS])
    except Exception as error:
        return str(error)[:300]
    return ""


def _as_loaded(graph: Path, options: Any) -> str | bytes:
    """What the engine gives a session: the file, or the graph rewritten where its arithmetic needs that."""
    stated = json.loads((graph.parent / "bagel_rt.json").read_text(encoding="utf-8"))["arithmetic"]
    model = with_wide_resize(graph) if stated == "bfloat16" else None
    if model is None:
        return str(graph)
    options.add_session_config_entry(WEIGHTS_BESIDE, str(graph.parent))
    return model


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


def _nodes(model: Path) -> dict[str, int]:
    import onnx

    kinds = Counter(node.op_type for node in onnx.load(str(model), load_external_data=False).graph.node)
    return {kind: kinds[kind] for kind in COUNTED if kinds[kind]}


def _run(session: Any) -> None:
    given = {}
    for tensor in session.get_inputs():
        shape = [d if isinstance(d, int) else SIZES.get(d, 16) for d in tensor.shape]
        if tensor.name == "mask":
            shape[1] = sum(SIZES[part] for part in str(tensor.shape[1]).split(" + "))
        array = np.ones(shape, np.bool_) if tensor.name == "mask" else np.zeros(shape, TYPES[tensor.type])
        kind = onnxruntime.OrtValue
        bits = tensor.type == "tensor(bfloat16)"
        make = kind.ortvalue_from_numpy_with_onnx_type if bits else kind.ortvalue_from_numpy
        given[tensor.name] = make(array, BFLOAT16) if bits else make(array)
    session.run_with_ort_values([output.name for output in session.get_outputs()], given)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as scratch:
            for path in sorted(Path(name).glob("*.onnx")):
                print(json.dumps(tried(path, Path(scratch))), flush=True)

"""Every graph runs on ONNX Runtime's real CUDA provider over a CUDA that computes nothing (tests/cuda_standin).

`make cuda-standin` fetches onnxruntime-gpu, builds the stand-in and runs these. They show what the provider refuses and
where it puts nodes; they say nothing of numbers or times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bagel_rt

ROOT = Path(__file__).parents[3]
FOLDER = os.environ.get("BAGEL_RT_CUDA_STANDIN", "")  # with `site` (onnxruntime-gpu) and `libraries`
OF_SHAPES = {"Squeeze", "Div", "Mul", "Concat", "Reshape"}  # nodes on a few numbers of shapes
pytestmark = [
    pytest.mark.cuda_standin,
    pytest.mark.skipif(not FOLDER, reason="needs the stand-in of CUDA: make cuda-standin"),
]


def ran(artefact: Path) -> dict[str, dict]:
    """What came of each graph, by name."""
    path = os.pathsep.join([f"{FOLDER}/site", *(str(ROOT / part) for part in ("", "engines", "export"))])
    env = {**os.environ, "PYTHONPATH": path, "LD_LIBRARY_PATH": f"{FOLDER}/libraries"}
    command = [sys.executable, ROOT / "tests/cuda_standin/run_graphs.py", artefact]
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    found = (json.loads(line) for line in told.splitlines() if line.startswith("{"))
    return {one["graph"]: one for one in found}


def check(artefact: Path) -> dict[str, dict]:
    graphs = ran(artefact)
    assert set(graphs) == {path.stem for path in artefact.glob("*.onnx")}
    assert not {name: one["refused"] for name, one in graphs.items() if "refused" in one}
    assert set().union(*(one["on_cpu"] for one in graphs.values())) <= OF_SHAPES
    assert not {name: one["not_captured"] for name, one in graphs.items() if one["not_captured"]}
    assert graphs["vae_decoder"]["done"]["convolution"] > 0
    return graphs


def test_bagel_nano_as_shipped_runs_and_unpacks_no_weights_for_a_product():
    products = check(Path(bagel_rt.__file__).parent / "models" / "bagel-nano")
    assert products["gen_step"]["nodes"] == {"MatMulNBits": 84}
    assert products["und_step"]["nodes"] == {"MatMulNBits": 42}


def test_float32_and_bfloat16_run(small_artefact, bf16_artefact):
    for artefact in (small_artefact, bf16_artefact):
        assert check(artefact)["gen_step"]["nodes"] == {"Gemm": 28}


def test_quantised_artefacts_run_and_unpack_no_weights_for_a_product(quantised_artefacts):
    for word in ("int8", "int4"):
        assert check(quantised_artefacts / word)["gen_step"]["nodes"] == {"MatMulNBits": 28}
    check(quantised_artefacts / "w8a8")

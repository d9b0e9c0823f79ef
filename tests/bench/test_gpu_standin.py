"""The benchmark for a card runs from first to last over a CUDA that computes nothing (make cuda-standin)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = os.environ.get("BAGEL_RT_CUDA_STANDIN", "")  # with `site` (onnxruntime-gpu) and `libraries`
pytestmark = [
    pytest.mark.cuda_standin,
    pytest.mark.skipif(not FOLDER, reason="needs the stand-in of CUDA: make cuda-standin"),
]


@pytest.fixture(scope="module")
def results(golden_artefact, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("gpu")
    path = os.pathsep.join([f"{FOLDER}/site", *(str(ROOT / part) for part in ("", "engines", "export"))])
    env = {**os.environ, "PYTHONPATH": path, "LD_LIBRARY_PATH": f"{FOLDER}/libraries"}
    command = [sys.executable, ROOT / "tests/cuda_standin/run_bench.py", "--small", "--device", "cuda:0"]
    command += ["--artefact", golden_artefact, "--out", folder / "gpu.json", "--work", folder / "work"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    kept = json.loads((folder / "gpu.json").read_text())
    assert json.loads(done.stdout.strip().splitlines()[-1]) == kept
    return kept


def test_every_part_leaves_results(results, golden_artefact):
    name, found = golden_artefact.name, results["results"]
    for part in (
        f"{name}: denoising, for CUDA", f"{name}: recorded cases, no CUDA graphs",
        f"{name}: recorded cases, CUDA graphs", "roof", "torch bf16 eager: denoise branch",
        "onnxruntime: denoise branch", "onnxruntime: text token", "onnxruntime: ViT", "onnxruntime: VAE decode",
        "onnxruntime: text to image", "onnxruntime: edit", "onnxruntime: published workload, text to image, 32 px",
        "onnxruntime: published workload, edit", "onnxruntime, CUDA graphs: denoise branch",
        "onnxruntime, CUDA graphs: published workload, text to image", f"{name}: TensorRT, plans compared",
    ):  # fmt: skip
        assert any(key.startswith(part) for key in found), part


def test_nothing_fails_but_what_needs_a_card(results):
    failed = {name: one for name, one in results["results"].items() if isinstance(one, dict) and "failed" in one}
    assert {name for name in failed if "TensorRT" not in name and "recorded cases" not in name} == set()


def test_card_driver_versions_and_commit_are_kept(results):
    assert len(results["commit"]) == 40
    assert results["cuda"]["driver"].startswith("for CUDA")
    assert "onnxruntime" in results["versions"]

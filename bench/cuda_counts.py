"""What do one more denoising step and one more token ask of CUDA?  python -m bench.cuda_counts STANDIN [--out F]

A random checkpoint of two layers in each precision, and bagel-nano as it ships, with CUDA graphs and without. STANDIN
is the folder that `make cuda-standin` made: onnxruntime-gpu's own CUDA provider over a CUDA that computes nothing.
Counts say nothing of time. A step has two branches, a picture 64 x 64. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bagel_rt
from bagel_export.artefact.export import export
from bagel_export.checkpoint.synthetic import write_checkpoint
from bench.timing import finish, machine

ROOT = Path(__file__).parents[1]
NANO = Path(bagel_rt.__file__).parent / "models" / "bagel-nano"
PRECISIONS = {
    "fp16": {"precision": "fp16"},
    "bf16": {"precision": "bf16"},
    **{name: {"precision": name, "arithmetic": "fp16"} for name in ("int8", "int4", "w8a8", "fp8")},
}


def counted(standin: Path, artefact: Path, *words: str) -> dict[str, Any]:
    """What tests/cuda_standin/run_calls.py tells of one more step, and of one more token."""
    path = os.pathsep.join([str(standin / "site"), *(str(ROOT / part) for part in ("", "engines", "export"))])
    env = {**os.environ, "PYTHONPATH": path, "LD_LIBRARY_PATH": str(standin / "libraries")}
    command = [sys.executable, ROOT / "tests/cuda_standin/run_calls.py", artefact, "shared", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["one more"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("standin", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, artefacts = write_checkpoint(Path(scratch) / "checkpoint"), {"bagel-nano, int8 in float32": NANO}
        for name, how in PRECISIONS.items():
            artefacts[name] = Path(scratch) / name
            for _ in export(checkpoint, artefacts[name], verify=False, **how):
                pass
        for name, artefact in artefacts.items():
            results[name] = {
                "ordinary": counted(args.standin, artefact),
                "played": counted(args.standin, artefact, "graphs"),
            }
    question = "what one more denoising step and one more token ask of CUDA"
    finish({"question": question, "results": results} | machine(), args.out)


if __name__ == "__main__":
    main()

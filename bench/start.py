"""How long until a model answers?  python bench/start.py [--model DIR] [--out FILE.json]

Starts a process that loads an artefact and writes one token, twice: with OpenVINO, which packs weights when it first
multiplies them, and with ONNX Runtime and packed weights, which the first start writes to disk and the second maps.
States the seconds from the process's start to the token, the part that opened the decoder's graphs, and the peaks of
memory. Needs room for a packed copy in --cache. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from bagel_rt.artefact.folders import BUNDLED
from bench.timing import finish, machine
from bench.watch import watched

START = """
import json, sys, time
start = time.perf_counter()
from bagel_rt.api import load
model, backend, arithmetic = sys.argv[1:]
how = {"packed_weights": True} if backend == "onnxruntime" else {}
with load(model, backend, arithmetic=arithmetic, **how) as bagel:
    bagel.graphs.open("gen_step")
    opened = time.perf_counter() - start
    bagel.ask("a", max_tokens=3)  # the official length rule: one token of its own
    print(json.dumps({"opened_s": round(opened, 2), "token_s": round(time.perf_counter() - start, 2)}))
"""


def started(model: Path, backend: str, arithmetic: str) -> dict[str, Any]:
    found = watched([sys.executable, "-c", START, str(model), backend, arithmetic])
    found |= json.loads(found.pop("last_line"))
    print(backend, json.dumps(found), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=BUNDLED, help="artefact (default: bagel-nano)")
    parser.add_argument("--arithmetic", default="int8", help="default: int8, see docs/precisions.md")
    parser.add_argument("--backends", nargs="+", default=["openvino", "onnxruntime"])
    parser.add_argument("--cache", type=Path, help="folder for packed weights (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "question": "seconds from the start of a process to its first token, first and second start",
        "weights_gb": round(sum(p.stat().st_size for p in args.model.glob("*.safetensors")) / 1e9, 2),
        "results": {},
        **machine(),
    }
    with tempfile.TemporaryDirectory(dir=args.cache) as cache:
        os.environ["BAGEL_RT_CACHE"] = cache
        for backend in args.backends:
            first, second = (started(args.model, backend, args.arithmetic) for _ in range(2))
            report["results"][f"{backend}, {args.arithmetic}"] = {"first": first, "second": second}
        packed = sum(p.stat().st_size for p in Path(cache).rglob("*") if p.is_file())
        report["packed_gb"] = round(packed / 1e9, 2)
    finish(report, args.out)


if __name__ == "__main__":
    main()

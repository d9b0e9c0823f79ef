"""What adapters of a loaded model cost: python bench/adapters.py [--small]

One decoder layer of the 7B's shape, random float32 weights, on each engine in float32: the plain graph, and the graph
with two adapters beside every product of both experts, of rank 16 or 64, of which a call uses none or one. Medians in
milliseconds, taken in turns (a round calls each once), and the seconds that loading the graph takes. Nothing else may
run meanwhile. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines import LowRank, Settings, Thin, open_engine
from bagel_engines.low_rank import linear_weights
from bagel_export.artefact.export import model_dims
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.synthetic import write_checkpoint
from bagel_rt.artefact.contract import ADAPTER_COLUMNS, ADAPTER_SCALES, GEN_STEP
from bench.layers import SMALL_WORKS, WORKS, arrays, on, shape
from bench.timing import alternating, finish, machine
from bench.ways import Way, exported

ENGINES = ("onnxruntime", "openvino")
ADAPTERS = 2  # beside each product


def low_rank(graph: Path, rank: int) -> LowRank:
    """Two random adapters of all products."""
    random = np.random.default_rng(0)

    def thin(size: int) -> np.ndarray:
        return random.standard_normal((ADAPTERS * rank, size), np.float32) / 64

    found = {name: Thin(thin(inputs), thin(outputs)) for name, (outputs, inputs) in linear_weights(graph).items()}
    return LowRank(found, ADAPTER_COLUMNS, ADAPTER_SCALES)


def chosen(given: dict[str, Any], ranks: int) -> dict[str, Any]:
    """A call's inputs that use the first ranks."""
    return {**given, ADAPTER_COLUMNS: np.arange(ranks), ADAPTER_SCALES: np.ones(ranks, np.float32)}


def measured(name: str, graph: Path, works: dict[str, dict[str, Any]], rank: int, rounds: int) -> dict[str, Any]:
    """Of one engine and rank: seconds of loading, and milliseconds of each work, plain and with adapters."""
    engine, seconds, runs = open_engine(name, settings=Settings(arithmetic="float32")), {}, {}
    for form, more in (("plain", ()), ("adapters", (None, low_rank(graph, rank)))):
        began = time.perf_counter()
        runs[form] = on(engine, engine.load(graph, *more))
        seconds[form] = round(time.perf_counter() - began, 2)
    found: dict[str, Any] = {"load_s": seconds, "ms": {}}
    for work, given in works.items():
        calls = {
            "plain": runs["plain"](given),
            "none": runs["adapters"](chosen(given, 0)),
            "one": runs["adapters"](chosen(given, rank)),
        }
        taken = alternating(calls, rounds)
        found["ms"][work] = {form: round(1000 * statistics.median(times), 2) for form, times in taken.items()}
    print(name, rank, json.dumps(found), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a small layer: shows that the benchmark runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "checkpoint", shape(args.small))
        plain = Way("fp32", "float32")
        exported([plain], checkpoint, Path(folder))
        graph = plain.artefact(Path(folder)) / f"{GEN_STEP}.onnx"
        dims = model_dims(open_checkpoint(checkpoint))
        works = {work.name: arrays(work, dims) for work in (SMALL_WORKS if args.small else (WORKS[0], WORKS[4]))}
        ranks = (2,) if args.small else (16, 64)
        found = {
            name: {str(rank): measured(name, graph, works, rank, args.rounds) for rank in ranks} for name in ENGINES
        }
    report = {
        "question": "milliseconds of a layer with adapters beside every product, of which a call uses none or one",
        "shape": "small" if args.small else "BAGEL-7B-MoT, one layer, float32; 2 adapters",
        "rounds": args.rounds,
        "by_rank": found,
        **machine(),
    }
    finish(report, args.out)


if __name__ == "__main__":
    main()

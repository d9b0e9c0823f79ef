"""What a layer costs whose generation expert is in pieces, half of them picked: python bench/sparse_layer.py [--small]

One decoder layer of the released shape, random float32 weights, two und rows and 1024 latents over a context of 50: the
dense layer, 16 pieces of which 8 are picked, and 32 of which 16 are, each with a shared piece, on each engine in
float32. Medians in milliseconds and ratios to the dense layer, one layer in memory at a time. The routers are random,
so that pieces are picked about equally often. Nothing else may run meanwhile. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bagel_engines import Settings, open_engine
from bagel_export.artefact.export import export, model_dims
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.synthetic import Shape, write_checkpoint
from bagel_export.config import SparseExperts
from bagel_rt.artefact.contract import GEN_STEP
from bench.layers import SMALL_WORKS, WORKS, arrays, on, shape
from bench.timing import finish, machine, turn

ENGINES = ("onnxruntime", "openvino")
# widths of the pieces: (18944 - shared) / count
FORMS = {
    "dense": None,
    "16to8": SparseExperts((0,), 16, 8, piece=1114, shared=1120),
    "32to16": SparseExperts((0,), 32, 16, piece=574, shared=576),
}


def of_form(form: str, small: bool) -> Shape:
    sparse = FORMS[form]
    if small and sparse is not None:
        sparse = replace(sparse, count=4, top_k=2, piece=24, shared=32)
    return shape(small).with_llm(sparse=sparse)


def measured(form: str, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Milliseconds by engine."""
    checkpoint, out = write_checkpoint(folder / "checkpoint", of_form(form, args.small)), folder / "artefact"
    for _ in export(checkpoint, out, verify=False):
        pass
    given = arrays((SMALL_WORKS if args.small else WORKS)[0], model_dims(open_checkpoint(checkpoint)))
    found = {}
    for name in ENGINES:
        engine = open_engine(name, settings=Settings(arithmetic="float32"))
        run = on(engine, engine.load(out / f"{GEN_STEP}.onnx"))(given)
        run()
        found[name] = round(1000 * statistics.median(turn(run) for _ in range(args.rounds)), 2)
    print(form, json.dumps(found), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a small layer: shows that the benchmark runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    taken = {}
    for form in FORMS:
        with tempfile.TemporaryDirectory() as folder:
            taken[form] = measured(form, args, Path(folder))
    ratios = {form: {e: round(ms[e] / taken["dense"][e], 3) for e in ENGINES} for form, ms in taken.items()}
    report = {
        "question": "milliseconds of a layer with the generation expert in pieces, and the ratio to the dense one",
        "shape": "small" if args.small else "BAGEL-7B-MoT, one layer, 2 und rows, 1024 latents, context 50, float32",
        "rounds": args.rounds,
        "ms": taken,
        "ratio_to_dense": ratios,
        **machine(),
    }
    finish(report, args.out)


if __name__ == "__main__":
    main()

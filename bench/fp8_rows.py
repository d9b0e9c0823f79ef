"""Is fp8 nearer where every row has a scale of its own?  python -m bench.fp8_rows --ckpt bench/nano/bagel-nano

An fp8 artefact rounds the rows that a weight multiplies with one scale for all, which a calibration chose. Here
bagel-nano is exported in that form and in one that finds a scale for each row as it comes, and both are held against
float32 case by case, as bench/quality.py does. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from bagel_export.artefact.export import export
from bagel_export.onnx import quantized_nodes
from bagel_export.quantization.formats import FORMATS
from bagel_export.quantization.quantize import FP8_LARGEST, LEAST_ROW
from bench.nano.cases import Case
from bench.quality import Outcome, Variant, chosen, outcome, row
from bench.timing import finish, machine

EXACT, FP8 = Variant("float32"), Variant("fp8", "fp8", "openvino", "float32")


def by_row(self: Any, x: ir.Value, reach: float, kept: Any) -> tuple[list[ir.Node], ir.Value, ir.Value]:
    """In place of the scale for all: each row divided by its largest number, and the product multiplied by it."""
    size = ir.node("Abs", [x])
    largest = ir.node("ReduceMax", [size.outputs[0], self._constant("last_axis", [-1], np.int64)])
    factor = ir.node("Max", [largest.outputs[0], self._constant("least_row", LEAST_ROW, kept.dtype)])
    unit = ir.node("Div", [x, factor.outputs[0]])
    step = self._constant("row_step_fp8", 1 / FP8_LARGEST, kept.dtype)
    middle = self._constant("fp8_middle", 0, FORMATS["fp8"].dtype)
    values = ir.node("QuantizeLinear", [unit.outputs[0], step, middle])
    rounded = ir.node("DequantizeLinear", [values.outputs[0], step, middle])
    nodes = [size, largest, factor, unit, values, rounded]
    return nodes, quantized_nodes._typed(rounded, x), factor.outputs[0]


@contextmanager
def a_scale_for_each_row() -> Iterator[None]:
    owner = quantized_nodes.Rewriter
    whole = owner._by_reach
    owner._by_reach = by_row  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        owner._by_reach = whole  # type: ignore[method-assign]


def found(variant: Variant, ckpt: Path, out: Path, cases: list[Case]) -> tuple[Outcome, int]:
    for _ in export(ckpt, out, precision=variant.precision, verify=False):
        pass
    return outcome(variant, out, cases), (out / "weights.safetensors").stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=8, help="cases of each kind")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    cases = chosen(args.limit)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        exact, _ = found(EXACT, args.ckpt, Path(folder) / "exact", cases)
        for name, how in (("one scale for all rows", nullcontext), ("a scale for each row", a_scale_for_each_row)):
            with how():
                rounded, size = found(FP8, args.ckpt, Path(folder) / name, cases)
            results[name] = row(rounded, exact, size)
    question = "is fp8 nearer where every row has a scale of its own"
    finish({"question": question, "cases": len(cases), "results": results} | machine(), args.out)


if __name__ == "__main__":
    main()

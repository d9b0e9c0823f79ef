"""What does each engine really run of a layer?  python bench/ran.py [--small] [--work DIR] [--out FILE.json]

The step graph of one layer of the 7B's shape, by way (see layers.py). OpenVINO's compiled model names the kernel of
each product; ONNX Runtime's profile of a call names its operators. Counted, so that an option that is taken and ignored
shows: products by number format; what unpacks or rounds weights or rows in a call. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bagel_engines import Settings, open_engine
from bagel_export.artefact.export import model_dims
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.synthetic import write_checkpoint
from bagel_rt.artefact.contract import GEN_STEP
from bench.layers import SMALL_WORKS, WORKS, arrays, default_ways, on, shape
from bench.timing import finish, machine
from bench.ways import Way, exported, way

PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "FusedGemm")
COUNTED = (*PRODUCTS, "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear")


@contextmanager
def profiled(folder: Path) -> Iterator[None]:
    """Sessions opened inside write a profile into the folder."""
    import onnxruntime

    plain = onnxruntime.SessionOptions

    def profiling():
        options = plain()
        options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
        return options

    onnxruntime.SessionOptions = profiling
    try:
        yield
    finally:
        onnxruntime.SessionOptions = plain


def operators(events: list[dict[str, Any]]) -> Counter[str]:
    """How often each operator ran in the last call of a profile."""
    call = [event for event in events if event["name"] == "model_run"][-1]
    began, ended = call["ts"], call["ts"] + call["dur"]
    ran = (
        event["args"]["op_name"]
        for event in events
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time") and began <= event["ts"] <= ended
    )
    return Counter(name for name in ran if name in COUNTED)


def of_onnxruntime(each: Way, graph: Path, given: dict[str, Any], folder: Path) -> Counter[str]:
    with profiled(folder):
        engine = open_engine(each.backend, settings=Settings(arithmetic=each.arithmetic))
        runner = engine.load(graph)
    on(engine, runner)(given)()
    return operators(json.loads(Path(runner._session.end_profiling()).read_text(encoding="utf-8")))


def of_openvino(each: Way, graph: Path) -> Counter[str]:
    engine = open_engine(each.backend, settings=Settings(arithmetic=each.arithmetic))
    engine.load(graph)
    return engine._ran


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a small layer: shows that the benchmark runs")
    parser.add_argument("--ways", nargs="+", type=way, default=None, metavar="PRECISION[/ARITHMETIC]")
    parser.add_argument("--work", type=Path, help="folder with layers.py's artefacts (default: made for the time)")
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    ways = args.ways or [*map(way, default_ways())]
    with nullcontext(args.work) if args.work else tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if not (folder / "checkpoint").exists():
            write_checkpoint(folder / "checkpoint", shape(args.small))
        exported(ways, folder / "checkpoint", folder)
        given = arrays((SMALL_WORKS if args.small else WORKS)[0], model_dims(open_checkpoint(folder / "checkpoint")))
        found = {}
        for each in ways:
            graph = each.artefact(folder) / f"{GEN_STEP}.onnx"
            counts = (
                of_openvino(each, graph) if each.backend == "openvino" else of_onnxruntime(each, graph, given, folder)
            )
            found[str(each)] = dict(sorted(counts.items()))
    report = {
        "question": "products of one layer by the number format (OpenVINO) or operator (ONNX Runtime) they ran in",
        "shape": "small" if args.small else "BAGEL-7B-MoT, one layer, both experts",
        "results": found,
    }
    finish(report | machine(), args.out)


if __name__ == "__main__":
    main()

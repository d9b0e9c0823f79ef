"""How fast are products with quantised weights on ONNX Runtime?  python bench/products.py

One weight of 3584 x 4736 as 8-bit or 4-bit blocks, multiplied by 1, 16 and 256 rows: with rows in float32 (EXACT,
which no engine uses, for this is how slow it is), with weights turned into float32 when loaded (PLAIN), and as
arithmetic int8 does it (ROUNDED). Milliseconds, medians. Ends in one JSON line.
"""

from __future__ import annotations

import json
import statistics
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from bagel_engines.onnxruntime.quantised_weights import PLAIN, ROUNDED
from bagel_export.quantization.quantize import Layout, packed, quantize
from bench.timing import machine

OUTPUTS, INPUTS, ROUNDS = 4736, 3584, 15
LAYOUTS = {"int8, blocks of 128": Layout("int8", 128), "int4, blocks of 64": Layout("int4", 64)}
EXACT = {"session.qdq_matmulnbits_accuracy_level": "1"}
WAYS = {"exact": EXACT, "plain": PLAIN, "rounded": ROUNDED}
ROWS = (1, 16, 256)


def graph(layout: Layout) -> bytes:
    weight = np.random.default_rng(0).standard_normal((OUTPUTS, INPUTS)).astype(np.float32)
    values, scale = quantize(weight, layout)
    kind = TensorProto.INT4 if layout.form == "int4" else TensorProto.INT8
    stored = helper.make_tensor("values", kind, values.shape, packed(values).tobytes(), raw=True)
    scales = helper.make_tensor("scale", TensorProto.FLOAT, scale.shape, scale.tobytes(), raw=True)
    nodes = [
        helper.make_node("DequantizeLinear", ["values", "scale"], ["dense"], axis=0, block_size=layout.block),
        helper.make_node("MatMul", ["x", "dense"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", s]) for n, s in (("x", INPUTS), ("y", OUTPUTS))
    )
    made = helper.make_graph(nodes, "product", [x], [y], [stored, scales])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 24)], ir_version=11).SerializeToString()


def milliseconds(session: onnxruntime.InferenceSession, rows: int) -> float:
    x = np.random.default_rng(1).standard_normal((rows, INPUTS)).astype(np.float32)
    taken = []
    for i in range(ROUNDS + 1):
        start = time.perf_counter()
        session.run(None, {"x": x})
        if i:
            taken.append(time.perf_counter() - start)
    return round(1000 * statistics.median(taken), 2)


def main() -> None:
    results: dict[str, dict[str, dict[int, float]]] = {}
    for name, layout in LAYOUTS.items():
        model = graph(layout)
        for way, settings in WAYS.items():
            options = onnxruntime.SessionOptions()
            for key, value in settings.items():
                options.add_session_config_entry(key, value)
            session = onnxruntime.InferenceSession(model, options)
            results.setdefault(name, {})[way] = {rows: milliseconds(session, rows) for rows in ROWS}
    report = {
        "question": "milliseconds of rows (1, 16, 256) by a quantised weight of 3584 x 4736, by how it is computed",
        "engine": f"onnxruntime {onnxruntime.__version__}",
        "results": results,
        "rounds": ROUNDS,
        **machine(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()

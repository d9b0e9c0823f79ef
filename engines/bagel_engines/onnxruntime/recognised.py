"""Whether sessions really multiply weights in blocks as they are, or unpack them whatever was asked for."""

from __future__ import annotations

import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np

from bagel_engines.onnxruntime.quantised_weights import HIDES_QUANTISED_WEIGHTS, ROUNDED


@cache
def recognised() -> bool:
    """Whether a product with 8-bit weights in blocks, and an addition behind it, is one MatMulNBits here."""
    return operators_of_a_product()["MatMulNBits"] == 1


def operators_of_a_product() -> Counter[str]:
    """The operators that a session made of such a product with the settings for quantised weights. Needs the onnx
    package."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, value in ROUNDED.items():
        options.add_session_config_entry(name, value)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.onnx"
        options.optimized_model_filepath = str(made)
        onnxruntime.InferenceSession(
            _product(), options, providers=["CPUExecutionProvider"], disabled_optimizers=HIDES_QUANTISED_WEIGHTS
        )
        return Counter(node.op_type for node in onnx.load(str(made)).graph.node)


def _product() -> bytes:
    """(rows, 64) times 8-bit weights in blocks of 32, and a bias."""
    from onnx import TensorProto, helper, numpy_helper

    arrays = {
        "weights": np.ones((64, 32), np.int8),
        "scale": np.ones((2, 32), np.float32),
        "bias": np.ones(32, np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["weights", "scale"], ["dense"], axis=0, block_size=32),
        helper.make_node("MatMul", ["rows", "dense"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", w]) for n, w in (("rows", 64), ("sum", 32))]
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()

"""A graph's products with fp8 weights as ONNX Runtime's CPU can run them, which has no kernel for them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT8 = ml_dtypes.float8_e4m3fn


def without_float8(model: Any, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Write them with the standard's operators; returns the weights that a session must be given then."""
    graph, kept = model.graph, dict(weights)
    kind = next((value.type.tensor_type.elem_type for value in graph.input if value.name == "pool"), TensorProto.FLOAT)
    nodes = []
    for i, node in enumerate(graph.node):
        if node.op_type == "MatMulBlockQuantizedFp8Weight":
            nodes += _widened(graph, node, weights, kind, f"wide_{i}")
        elif node.op_type == "GemmFloat8":
            nodes += _of_one_scale(graph, node, weights, kind, f"wide_{i}")
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    gone = [tensor for tensor in graph.initializer if tensor.name in kept and tensor.name not in read]
    for tensor in gone:
        graph.initializer.remove(tensor)
        del kept[tensor.name]
    return kept


def _widened(graph: Any, node: Any, weights: dict[str, np.ndarray], kind: int, name: str) -> list[Any]:
    rows, codes, scales, step = node.input[:4]
    dense = weights[codes].view(FLOAT8).astype(np.float32) * weights[scales]
    _store(graph, f"{name}_dense", dense.T, kind)
    zero = TensorProto(name=f"{name}_zero", data_type=TensorProto.FLOAT8E4M3FN, dims=(), raw_data=b"\0")
    graph.initializer.append(zero)
    return [
        helper.make_node("Cast", [step], [f"{name}_step"], to=kind),
        helper.make_node("QuantizeLinear", [rows, f"{name}_step", zero.name], [f"{name}_rounded"]),
        helper.make_node("DequantizeLinear", [f"{name}_rounded", f"{name}_step", zero.name], [f"{name}_rows"]),
        helper.make_node("MatMul", [f"{name}_rows", f"{name}_dense"], [node.output[0]]),
    ]


def _of_one_scale(graph: Any, node: Any, weights: dict[str, np.ndarray], kind: int, name: str) -> list[Any]:
    rows, codes, _, step, middle = node.input[:5]
    _store(graph, f"{name}_dense", weights[codes].view(FLOAT8).astype(np.float32).T, TensorProto.FLOAT)
    return [
        helper.make_node("Cast", [rows], [f"{name}_rows"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", [f"{name}_rows", f"{name}_dense"], [f"{name}_sums"]),
        helper.make_node("Mul", [f"{name}_sums", step], [f"{name}_stepped"]),
        helper.make_node("Mul", [f"{name}_stepped", middle], [f"{name}_scaled"]),
        helper.make_node("Cast", [f"{name}_scaled"], [node.output[0]], to=kind),
    ]


def _store(graph: Any, name: str, array: np.ndarray, kind: int) -> None:
    wanted = helper.tensor_dtype_to_np_dtype(kind)
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array.astype(wanted)), name))

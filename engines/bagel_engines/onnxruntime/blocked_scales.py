"""A graph rewritten for ONNX Runtime's CPU: 8-bit weights with one scale for each output get one for each block too.

MatMulNBits, its product with quantised weights, takes weights in blocks only (1.31.1). Weights with one scale for a
whole output would be unpacked to float32 in every call. Repeating the scale for each block of inputs says the same and
lets the product be recognised; it costs four bytes for every block of weights. Rows that the graph rounds to 8 bits
for such a product (precision w8a8) are given to it as they were: it rounds them to 8 bits itself, in blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines.onnx_files import values_of
from bagel_engines.onnxruntime.unread_nodes import drop_unread

BLOCKS = (128, 64, 32)  # inputs that share a scale: the largest that divides


def block_scales(model: Any, folder: Path) -> int:
    """Rewrite every such weight that a MatMul reads; returns how many there were. folder: of the external weights."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    read = {name for node in graph.node if node.op_type == "MatMul" for name in node.input}
    found = [node for node in graph.node if node.output and node.output[0] in read and _by_output(node, tensors)]
    for number, node in enumerate(found):
        inputs, _ = tensors[node.input[0]].dims
        block = next(size for size in BLOCKS if inputs % size == 0)
        graph.initializer.append(_repeated(tensors[node.input[1]], inputs // block, f"block_scale_{number}", folder))
        node.input[1] = f"block_scale_{number}"
        _set(node, axis=0, block_size=block)
    _leave_rows(graph, {node.output[0] for node in found})
    drop_unread(graph)
    return len(found)


def _leave_rows(graph: Any, weights: set[str]) -> None:
    """Let products with these weights read the rows that were rounded and widened again before them."""
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            widened = makers.get(node.input[0])
            rounded = makers.get(widened.input[0]) if widened is not None and widened.input else None
            if widened is not None and widened.op_type == "DequantizeLinear" and rounded is not None:
                node.input[0] = rounded.input[0]


def _by_output(node: Any, tensors: dict[str, Any]) -> bool:
    from onnx import TensorProto

    weights, scale = (tensors.get(name) for name in (*node.input, "", "")[:2])
    if node.op_type != "DequantizeLinear" or weights is None or scale is None:
        return False
    plain = weights.data_type == TensorProto.INT8 and len(weights.dims) == 2 and len(scale.dims) == 1
    return plain and any(weights.dims[0] % size == 0 for size in BLOCKS)


def _repeated(scale: Any, times: int, name: str, folder: Path) -> Any:
    from onnx import numpy_helper

    array = values_of(scale, folder)
    return numpy_helper.from_array(np.ascontiguousarray(np.broadcast_to(array, (times, len(array)))), name)


def _set(node: Any, **attributes: int) -> None:
    from onnx import helper

    kept = [a for a in node.attribute if a.name not in attributes]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attributes.items())])

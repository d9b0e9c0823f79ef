"""A step graph rewritten so that ONNX Runtime can capture it as a CUDA graph: no number of it is computed on the CPU.

Step graphs take the length of a half of the pool from the pool's shape. ONNX Runtime computes with shapes on the CPU
and brings the result to the device in every call, which cannot be captured. Here the length is an input instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bagel_engines.onnxruntime.unread_nodes import drop_unread

POOL, HALF = "pool", "pool_half"


def with_half_as_input(graph: Path) -> bytes | None:
    """The graph with the input HALF. None where a graph does not ask its pool's shape. Needs the onnx package."""
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    if not take_half_as_input(model):
        return None
    drop_unread(model.graph)
    return model.SerializeToString()


def take_half_as_input(model: Any) -> bool:
    """Give a graph the input HALF, an int64 scalar: slots of the pool; whether it asked its pool's shape before."""
    from onnx import TensorProto, helper

    makers = {output: node for node in model.graph.node for output in node.output}
    divided = next((n for n in model.graph.node if n.op_type == "Div" and _is_of_pool(n, makers)), None)
    if divided is None:
        return False
    for node in model.graph.node:
        node.input[:] = [HALF if name == divided.output[0] else name for name in node.input]
    model.graph.input.append(helper.make_tensor_value_info(HALF, TensorProto.INT64, []))
    return True


def _is_of_pool(node: Any, makers: dict[str, Any]) -> bool:
    """Whether a node divides what Shape says of the pool."""
    while node is not None and node.op_type in ("Div", "Squeeze", "Cast", "Shape"):
        if node.op_type == "Shape":
            return node.input[0] == POOL
        node = makers.get(node.input[0])
    return False

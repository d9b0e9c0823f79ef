"""A graph rewritten for ONNX Runtime's CPU: products of 8-bit rows with 8-bit weights computed in integers.

An artefact of precision w8a8 states such a product in standard operators: the rows are rounded to 8 bits and widened
again, so are the weights, and two float matrices are multiplied. ONNX Runtime 1.31 and 1.32 compute just that: they
unpack all weights to float32. Its integer product (MatMulInteger) has the same result to the last bit of the sums and
is two to three times as fast on CPUs with VNNI instructions, but only when the rows are unsigned: signed rows take a
path without vector instructions (1.31.1: 54 against 944 GOP/s for 1024 rows of 3584 on an Ice Lake server). So the rows
are rounded to 0..255 around 128 with the step they had.

CPUs with AVX2 and without VNNI add two products of an unsigned and a signed byte in 16 bits, which overflows. There the
weights are made unsigned, too, when the session folds its constants: that is exact everywhere, and a quarter slower
(1.31.1 on a Zen 3: 202 against 253 GOP/s for 1024 rows, float32 140). `overflows` finds out by trying.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines.onnx_files import values_of
from bagel_engines.onnxruntime.unread_nodes import drop_unread

MIDDLE = 128  # the unsigned byte that stands for 0


@cache
def overflows() -> bool:
    """Whether this CPU's product of unsigned rows and signed weights is wrong for the largest numbers there are."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rows, weights = np.full((4, 64), 255, np.uint8), np.full((64, 32), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["rows", "weights", "middle"], ["sums"])],
        "largest",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, [4, 64])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [4, 32])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array(MIDDLE, np.uint8), "middle")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"rows": rows})
    return not bool((np.asarray(sums) == (255 - MIDDLE) * 127 * 64).all())


@dataclass(frozen=True)
class _Product:
    """A MatMul of rounded rows and rounded weights, and the nodes its inputs come from."""

    node: Any
    rounded: Any  # QuantizeLinear of the rows
    weights: str  # (in, out) int8
    scale: str  # (out,) of the weights


def use_integer_products(model: Any, folder: Path, unsigned: bool | None = None) -> int:
    """Rewrite every such product of a graph whose arithmetic is float32; returns how many there were.

    folder: where the graph's external weights lie; the scales of outputs are read from there. unsigned: make weights
    unsigned; None where this CPU needs it.
    """
    from onnx import TensorProto

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    products = [p for p in _products(graph, tensors) if tensors[p.scale].data_type == TensorProto.FLOAT]
    if not products:
        return 0
    made: dict[str, list[Any]] = {}  # by the result of the node they come after or stand for
    unsigned = overflows() if unsigned is None else unsigned
    for number, product in enumerate(products):
        quantize = product.rounded
        rows = f"{quantize.output[0]}_unsigned"
        made[quantize.output[0]] = [quantize, _unsigned(quantize, rows)]
        step = values_of(tensors[quantize.input[1]], folder)
        graph.initializer.append(_scaled(tensors[product.scale], step, f"product_{number}_scale", folder))
        made[product.node.output[0]] = _integer(product, rows, f"product_{number}", unsigned)
    nodes = [new for node in graph.node for new in made.get(node.output[0], [node])]
    graph.initializer.append(_middle())
    if unsigned:
        nodes = [*_made_unsigned({product.weights for product in products}, tensors), *nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread(graph)
    return len(products)


def _products(graph: Any, tensors: dict[str, Any]) -> Iterator[_Product]:
    makers: dict[str, Any] = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type != "MatMul":
            continue
        rows, weights = (makers.get(name, node) for name in node.input)  # the node itself is neither
        rounded = makers.get(rows.input[0]) if _dequantizes(rows) else None
        if rounded is not None and rounded.op_type == "QuantizeLinear" and _by_output(weights, tensors):
            yield _Product(node, rounded, weights.input[0], weights.input[1])


def _by_output(node: Any, tensors: dict[str, Any]) -> bool:
    """Whether a node widens stored 8-bit weights that have a scale for each output."""
    from onnx import TensorProto

    if not _dequantizes(node) or not {*node.input[:2]} <= tensors.keys():
        return False
    weights, scale = tensors[node.input[0]], tensors[node.input[1]]
    return weights.data_type == TensorProto.INT8 and len(scale.dims) == 1


def _dequantizes(node: Any) -> bool:
    return node.op_type == "DequantizeLinear"


def _unsigned(quantize: Any, output: str) -> Any:
    """The rows rounded with the same step to unsigned bytes."""
    from onnx import helper

    return helper.make_node("QuantizeLinear", [quantize.input[0], quantize.input[1], "unsigned_middle"], [output])


def _made_unsigned(weights: Iterable[str], tensors: dict[str, Any]) -> list[Any]:
    """Nodes that add MIDDLE to stored weights, whose bytes are read as unsigned ones; a session folds them once."""
    from onnx import TensorProto, helper

    for name in weights:
        tensors[name].data_type = TensorProto.UINT8
    return [helper.make_node("BitwiseXor", [name, "unsigned_middle"], [f"{name}_unsigned"]) for name in sorted(weights)]


def _integer(product: _Product, rows: str, name: str, unsigned: bool) -> list[Any]:
    """The product in integers, then in float32 times the outputs' scales. unsigned: so are the weights."""
    from onnx import TensorProto, helper

    inputs = [rows, product.weights, "unsigned_middle"]
    if unsigned:
        inputs = [rows, f"{product.weights}_unsigned", "unsigned_middle", "unsigned_middle"]
    return [
        helper.make_node("MatMulInteger", inputs, [f"{name}_sums"]),
        helper.make_node("Cast", [f"{name}_sums"], [f"{name}_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [product.node.output[0]]),
    ]


def _scaled(scale: Any, step: np.ndarray, name: str, folder: Path) -> Any:
    """What a sum of products of whole numbers is worth: the weights' scales times the rows' step."""
    from onnx import numpy_helper

    return numpy_helper.from_array(values_of(scale, folder) * step.astype(np.float32), name)


def _middle() -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(MIDDLE, np.uint8), "unsigned_middle")

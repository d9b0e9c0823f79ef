"""A graph rewritten for ONNX Runtime's CPU: rows that weights in blocks multiply are rounded, with one step a row.

Artefacts of precision int8 and int4 have weights in blocks and say nothing of the rows. The product in blocks
(MatMulNBits) is fast for one row and slower than float32 for many (1.31.1 on a Zen 3: 104 against 159 GOP/s for 256).
So the graph is given the form that precision w8a8 states, which integer_products then computes in integers: rows
divided by their largest number and rounded, and weights with one scale for each output, rounded once more from their
blocks. A row is rounded once for all weights that multiply it. Rows that come out of an MLP's widening have a few large
numbers; as in w8a8 they, and the weights, are rotated first: on bagel-nano's step graph the error is 2.0 % with it and
3.4 % without, on a layer of the 7B's shape 3.1 % without.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines.onnx_files import values_of
from bagel_engines.onnxruntime.unread_nodes import drop_unread

LEVELS = 127
LEAST_ROW = 1e-6  # rows are divided by their largest number, but at least by this: a row may be all zeros
PIECE = 1 << 22  # weights rounded at once
LARGEST, LEAST = 128, 16  # inputs that are rotated together; fewer would spread too little

Weights = dict[str, np.ndarray]


def round_rows(model: Any, folder: Path) -> Weights:
    """Rewrite each product of float32 rows with 8-bit or 4-bit weights in blocks.

    Returns the new weights (in, out), int8, by the name of their initializer: a model of many could not be written as
    bytes, so a session must be given them.
    """
    graph, given = model.graph, Weights()
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    dense = {node.output[0]: node for node in graph.node if _in_blocks(node, tensors)}
    blocks = _rotations(graph, dense, tensors)
    nodes: list[Any] = []
    rounded: set[str] = set()
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in dense:
            nodes.append(node)
            continue
        rows, weights = node.input
        values, scale = (tensors[name] for name in dense[weights].input[:2])
        block = blocks[rows]
        if rows not in rounded:
            rounded.add(rows)
            nodes += _rounding(rows, _rotating(rows, block, values.dims[0]) if block else [])
        if f"{weights}_by_output" not in given:
            again, one = by_output(values_of(values, folder), values_of(scale, folder), block)
            given[f"{weights}_by_output"] = again
            graph.initializer.extend(_stored(weights, again, one))
            nodes.append(_widened(weights))
        nodes += _product(node)
    if given:
        graph.initializer.extend(_constants())
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread(graph)
    return given


def _rotations(graph: Any, dense: dict[str, Any], tensors: dict[str, Any]) -> dict[str, int]:
    """By rows the block they are rotated in: 0 unless every weight that reads them would have it so."""
    blocks: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in dense:
            rows, block = node.input[0], rotation(*tensors[dense[node.input[1]].input[0]].dims)
            blocks[rows] = min(block, blocks.get(rows, block))
    return blocks


def rotation(inputs: int, outputs: int) -> int:
    """Inputs to a block of the rotation of a weight's rows, a power of two; 0 for none: only rows that were widened
    before have large numbers here and there. As the exporter chooses for w8a8."""
    block = min(inputs & -inputs, LARGEST)
    return block if inputs > outputs and block >= LEAST else 0


def hadamard(size: int) -> np.ndarray:
    """The orthonormal symmetric matrix of that power of two (Sylvester's construction), float32."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.sqrt(np.float32(size))


def by_output(values: np.ndarray, scale: np.ndarray, block: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """8-bit or 4-bit weights (in, out) and their scales (in / n, out) rounded again: int8 (in, out), and one scale for
    each output. block: inputs that are rotated together before, 0 for none; a part of n, or a multiple."""
    largest = np.zeros(values.shape[1], np.float32)
    for _, dense in _pieces(values, scale, block):
        largest = np.maximum(largest, np.abs(dense).max(axis=0))
    one = np.maximum(largest / LEVELS, np.finfo(np.float32).tiny).astype(np.float32)
    out = np.empty(values.shape, np.int8)
    for part, dense in _pieces(values, scale, block):
        np.rint(dense / one, casting="unsafe", out=out[part])
    return out, one


def _pieces(values: np.ndarray, scale: np.ndarray, block: int) -> Iterator[tuple[slice, np.ndarray]]:
    """The weights in float32, rotated, some inputs at a time."""
    (inputs, outputs), each = values.shape, len(values) // len(scale)
    unit = max(each, block)
    step = max(1, PIECE // (unit * outputs)) * unit
    turn = hadamard(block) if block else None
    for start in range(0, inputs, step):
        part = slice(start, min(start + step, inputs))
        scales = scale[start // each : -(-part.stop // each)]
        dense = (values[part].reshape(len(scales), each, outputs) * scales[:, None]).reshape(-1, outputs)
        if turn is not None:
            dense = (turn @ dense.reshape(-1, block, outputs)).reshape(dense.shape)
        yield part, dense


def _in_blocks(node: Any, tensors: dict[str, Any]) -> bool:
    from onnx import TensorProto

    weights, scale = (tensors.get(name) for name in (*node.input, "", "")[:2])
    if node.op_type != "DequantizeLinear" or weights is None or scale is None:
        return False
    kinds = weights.data_type in (TensorProto.INT8, TensorProto.INT4), scale.data_type == TensorProto.FLOAT
    return all(kinds) and len(scale.dims) == 2


def _rotating(rows: str, block: int, inputs: int) -> list[Any]:
    """Nodes that rotate rows (n, inputs) in blocks, one product of (n * inputs / block, block)."""
    from onnx import helper, numpy_helper

    constants = {
        "in_blocks": np.array([-1, block], np.int64),
        "as_before": np.array([-1, inputs], np.int64),
        "turn": hadamard(block),
    }
    made = [
        helper.make_node("Constant", [], [f"{rows}_{name}"], value=numpy_helper.from_array(array))
        for name, array in constants.items()
    ]
    return [
        *made,
        helper.make_node("Reshape", [rows, f"{rows}_in_blocks"], [f"{rows}_blocks"]),
        helper.make_node("MatMul", [f"{rows}_blocks", f"{rows}_turn"], [f"{rows}_turned"]),
        helper.make_node("Reshape", [f"{rows}_turned", f"{rows}_as_before"], [f"{rows}_rotated"]),
    ]


def _rounding(rows: str, before: list[Any]) -> list[Any]:
    """Nodes that round rows. before: those that rotate them."""
    from onnx import helper

    given = before[-1].output[0] if before else rows
    made = [f"{rows}_{step}" for step in ("size", "largest", "factor", "unit", "values", "rounded")]
    size, largest, factor, unit, values, rounded = made
    return [
        *before,
        helper.make_node("Abs", [given], [size]),
        helper.make_node("ReduceMax", [size, "rounded_axis"], [largest]),
        helper.make_node("Max", [largest, "rounded_least"], [factor]),
        helper.make_node("Div", [given, factor], [unit]),
        helper.make_node("QuantizeLinear", [unit, "rounded_step", "rounded_middle"], [values]),
        helper.make_node("DequantizeLinear", [values, "rounded_step", "rounded_middle"], [rounded]),
    ]


def _widened(weights: str) -> Any:
    from onnx import helper

    stored = [f"{weights}_by_output", f"{weights}_scale"]
    return helper.make_node("DequantizeLinear", stored, [f"{weights}_widened"], axis=1)


def _product(node: Any) -> list[Any]:
    from onnx import helper

    (rows, weights), (wanted,) = node.input, node.output
    return [
        helper.make_node("MatMul", [f"{rows}_rounded", f"{weights}_widened"], [f"{wanted}_of_units"]),
        helper.make_node("Mul", [f"{wanted}_of_units", f"{rows}_factor"], [wanted]),
    ]


def _stored(name: str, values: np.ndarray, scale: np.ndarray) -> list[Any]:
    from onnx import TensorProto, numpy_helper

    weights = TensorProto(name=f"{name}_by_output", data_type=TensorProto.INT8, dims=values.shape)
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="given to the session")
    return [weights, numpy_helper.from_array(scale, f"{name}_scale")]


def _constants() -> list[Any]:
    from onnx import numpy_helper

    arrays = {
        "rounded_axis": np.array([-1], np.int64),
        "rounded_least": np.array(LEAST_ROW, np.float32),
        "rounded_step": np.array(1 / LEVELS, np.float32),
        "rounded_middle": np.array(0, np.int8),
    }
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]

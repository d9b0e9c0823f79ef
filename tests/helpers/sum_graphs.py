"""How the graphs that engines/bagel_engines ships were made: `python tests/helpers/sum_graphs.py` writes them again."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from bagel_engines.device import largest, linear_sums, token_chain
from bagel_engines.onnxruntime import shared_weights


def made(name: str) -> onnx.ModelProto:
    """plus: base + weight * term; slope: (after - before) / distance. Arrays (rows, width), one number."""
    nodes, inputs = {
        "plus": (
            [
                helper.make_node("Mul", ["weight", "term"], ["scaled"]),
                helper.make_node("Add", ["base", "scaled"], ["out"]),
            ],
            ("base", "term", "weight"),
        ),
        "slope": (
            [
                helper.make_node("Sub", ["after", "before"], ["apart"]),
                helper.make_node("Div", ["apart", "distance"], ["out"]),
            ],
            ("after", "before", "distance"),
        ),
    }[name]  # fmt: skip

    def value(tensor: str) -> onnx.ValueInfoProto:
        shape = [1] if tensor in ("weight", "distance") else ["rows", "width"]
        return helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape)

    graph = helper.make_graph(nodes, name, [value(n) for n in inputs], [value("out")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11, producer_name="")


def largest_of() -> onnx.ModelProto:
    """Of rows (n, width) the column of the first largest number and the sum of all: (n, 2)."""
    nodes = [
        helper.make_node("ArgMax", [largest.ROWS], ["place"], axis=1, keepdims=1, select_last_index=0),
        helper.make_node("Cast", ["place"], ["column"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", [largest.ROWS, "axes"], ["sum"], keepdims=1),
        helper.make_node("Concat", ["column", "sum"], [largest.FOUND], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "largest",
        [helper.make_tensor_value_info(largest.ROWS, TensorProto.FLOAT, ["n", "width"])],
        [helper.make_tensor_value_info(largest.FOUND, TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11, producer_name="")


def row_of(dtype: str) -> onnx.ModelProto:
    """The row of a table (places, width) at the first column's number of `found` (n, 2), in float32."""
    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[dtype]
    nodes = [
        helper.make_node("Gather", [token_chain.FOUND, "first"], ["column"], axis=1),
        helper.make_node("Cast", ["column"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", [token_chain.TABLE, "place"], ["kept"], axis=0),
        helper.make_node("Cast", ["kept"], [token_chain.ROW], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "row",
        [
            helper.make_tensor_value_info(token_chain.FOUND, TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info(token_chain.TABLE, kind, ["places", "width"]),
        ],
        [helper.make_tensor_value_info(token_chain.ROW, TensorProto.FLOAT, ["n", "width"])],
        [helper.make_tensor("first", TensorProto.INT64, [], [0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11, producer_name="")


def probe() -> onnx.ModelProto:
    """x + w, where w is the graph's own 0: for finding out whether a session takes another w."""
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])  # noqa: E731
    own = helper.make_tensor(shared_weights.ADDED, TensorProto.FLOAT, [1], [0.0])
    node = helper.make_node("Add", ["x", shared_weights.ADDED], ["y"])
    graph = helper.make_graph([node], "probe", [value("x")], [value("y")], [own])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11, producer_name="")


if __name__ == "__main__":
    for path in (linear_sums.PLUS, linear_sums.SLOPE):
        Path(path).write_bytes(made(path.stem).SerializeToString(deterministic=True))
    for dtype, path in token_chain.ROW_GRAPHS.items():
        path.write_bytes(row_of(dtype).SerializeToString(deterministic=True))
    largest.LARGEST.write_bytes(largest_of().SerializeToString(deterministic=True))
    shared_weights.PROBE.write_bytes(probe().SerializeToString(deterministic=True))

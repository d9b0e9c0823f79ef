"""Attention in bounded memory on ONNX Runtime's CPU, which keeps the scores of every query with every key at once.

Each Attention becomes a loop over so many queries that their scores fit SCORES; what a query gives depends on no other,
so no number changes. A loop that is never entered also takes zero queries, which Attention itself refuses. Graphs are
read with the onnx package.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bagel_engines.runner import EngineFailure

SCORES = 1 << 25  # numbers: 128 MiB
WEIGHTS_BESIDE = "session.model_external_initializers_file_folder_path"  # for a graph that is given as bytes


def possible() -> bool:
    return find_spec("onnx") is not None


def bounded(graph: Path, scores: int = SCORES) -> bytes:
    """The graph with its attention in loops, weights still beside the file. Raises EngineFailure for a broken file."""
    import onnx

    try:
        model = onnx.load(str(graph), load_external_data=False)
    except Exception as error:  # protobuf's own
        raise EngineFailure(f"{graph} is not an ONNX graph: {error}") from error
    nodes = []
    for i, node in enumerate(model.graph.node):
        looped = node.op_type == "Attention" and not node.domain and len(node.input) <= 4 and len(node.output) == 1
        nodes += _looped(node, f"attention_{i}", scores) if looped else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def _looped(node: Any, name: str, scores: int) -> list[Any]:
    """The nodes that stand for an Attention of q (1, heads, queries, dim), k, v (1, kv heads, keys, dim) and perhaps a
    mask (1, 1, queries, keys)."""
    from onnx import TensorProto, ValueInfoProto, helper

    def constant(told: str, values: list[int], shape: list[int]) -> Any:
        tensor = helper.make_tensor(f"{name}_{told}", TensorProto.INT64, shape, values)
        return helper.make_node("Constant", [], [f"{name}_{told}"], value=tensor)

    def made(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(op, [named(i) for i in inputs], [named(output)], **attributes)

    def named(told: str) -> str:  # names of the graph's own begin with "="
        return told[1:] if told.startswith("=") else f"{name}_{told}"

    query, key, *rest = (f"={given}" for given in node.input)
    value, mask = rest[0], [given for given in rest[1:] if given != "="]
    around = [
        constant("axis", [2], [1]),
        constant("most", [scores], [1]),
        constant("one", [1], [1]),
        made("Shape", [query], "queries", start=2, end=3),
        made("Shape", [query], "heads", start=1, end=2),
        made("Shape", [key], "keys", start=2, end=3),
        made("Mul", ["heads", "keys"], "row"),
        made("Max", ["row", "one"], "row_or_one"),
        made("Div", ["most", "row_or_one"], "fitting"),
        made("Max", ["fitting", "one"], "step"),
        made("Add", ["queries", "step"], "end_and_more"),
        made("Sub", ["end_and_more", "one"], "end_and_rest"),
        made("Div", ["end_and_rest", "step"], "turns_1"),
        made("Squeeze", ["turns_1"], "turns"),
        constant("zero", [0], [1]),
        made("Slice", [query, "zero", "zero", "axis"], "none"),
    ]
    body = [
        made("Mul", ["turn", "step"], "start"),
        made("Add", ["start", "step"], "stop"),
        made("Slice", [query, "start", "stop", "axis"], "some"),
        *(made("Slice", [given, "start", "stop", "axis"], "seen") for given in mask),
        made("Attention", ["some", key, value, *(["seen"] if mask else [])], "given"),
        made("Concat", ["before", "given"], "after", axis=2),
        made("Identity", ["go_on"], "still"),
    ]
    attention = next(made_node for made_node in body if made_node.op_type == "Attention")
    attention.attribute.extend(node.attribute)
    untyped = lambda told: ValueInfoProto(name=named(told))  # noqa: E731
    sub = helper.make_graph(
        body,
        named("turns_body"),
        [
            helper.make_tensor_value_info(named("turn"), TensorProto.INT64, []),
            helper.make_tensor_value_info(named("go_on"), TensorProto.BOOL, []),
            untyped("before"),
        ],
        [helper.make_tensor_value_info(named("still"), TensorProto.BOOL, []), untyped("after")],
    )
    loop = helper.make_node("Loop", [named("turns"), "", named("none")], [node.output[0]], body=sub, name=name)
    return [*around, loop]

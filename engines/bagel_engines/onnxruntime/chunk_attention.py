"""A graph rewritten for ONNX Runtime's CPU: attention over chunks of queries, in bounded memory, zero queries included.

Its Attention kernel (1.31.1) keeps the scores of all queries with all keys at once: gigabytes for a large picture. So
each Attention node becomes an ONNX Loop over chunks of queries whose scores fit SCORES; a query's result does not
depend on the other queries. The kernel also refuses zero queries, which text through the two-expert graph needs: a loop
that makes no turn takes them. And its ReduceMax over the last axis of an input without rows gives a last axis of full
length instead of 1: a Slice cuts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCORES = 1 << 25  # attention scores held at once: 128 MiB of float32


def chunk_attention(model: Any, scores: int = SCORES) -> None:
    """Put a graph's attention into loops. scores: how many attention scores a turn of the loop may hold."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer if not tensor.external_data}
    nodes = []
    for i, node in enumerate(model.graph.node):
        looped = node.op_type == "Attention" and not node.domain and len(node.input) <= 4 and len(node.output) == 1
        nodes += _looped(node, f"attention_{i}", scores) if looped else _one_maximum(node, f"largest_{i}", constants)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _one_maximum(node: Any, name: str, constants: Mapping[str, Any]) -> list[Any]:
    """The node itself; a ReduceMax over the last axis with a Slice behind it that keeps one number of that axis."""
    from onnx import TensorProto, helper, numpy_helper

    axes = constants.get(node.input[1]) if node.op_type == "ReduceMax" and len(node.input) > 1 else None
    if axes is None or numpy_helper.to_array(axes).tolist() != [-1]:
        return [node]
    wanted, node.output[0] = node.output[0], f"{name}_given"
    bounds = {value: helper.make_tensor("", TensorProto.INT64, [1], [value]) for value in (0, 1, -1)}
    numbers = [helper.make_node("Constant", [], [f"{name}_{value}"], value=bound) for value, bound in bounds.items()]
    return [node, *numbers, helper.make_node("Slice", [node.output[0], *(n.output[0] for n in numbers)], [wanted])]


def _looped(node: Any, name: str, scores: int) -> list[Any]:
    """The nodes that replace an Attention of q (1, heads, queries, dim), k, v (1, kv heads, keys, dim) and perhaps a
    mask (1, 1, queries, keys): a Loop that appends the result of one chunk of queries in each turn."""
    from onnx import TensorProto, ValueInfoProto, helper

    def constant(suffix: str, values: list[int], shape: list[int]) -> Any:
        tensor = helper.make_tensor(f"{name}_{suffix}", TensorProto.INT64, shape, values)
        return helper.make_node("Constant", [], [f"{name}_{suffix}"], value=tensor)

    def made(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(op, [named(i) for i in inputs], [named(output)], **attributes)

    def named(suffix: str) -> str:  # "=" marks a name of the original graph; others get this node's prefix
        return suffix[1:] if suffix.startswith("=") else f"{name}_{suffix}"

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
    untyped = lambda suffix: ValueInfoProto(name=named(suffix))  # noqa: E731
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

"""Row by row work of a step graph rewritten for ONNX Runtime on CUDA (1.31.1), where each node is a pass over memory.

A residual and the norm behind it are one SkipSimplifiedLayerNormalization, x * sigmoid(x) is one QuickGelu with alpha
1, and the three products of one input that make queries, keys and values are one product with their weights as one.
"""

from __future__ import annotations

from typing import Any

from bagel_engines.onnxruntime.graph_walk import Walk, number

MICROSOFT = "com.microsoft"


def join_norms(graph: Any) -> int:
    """Each norm of a sum, with the sum; returns how many."""
    walk, replaced = Walk(graph), {}
    for node in graph.node:
        added = walk.makers.get(node.input[0]) if node.op_type == "RMSNormalization" else None
        if added is not None and added.op_type == "Add" and id(added) not in replaced:
            replaced[id(added)], replaced[id(node)] = _joined(added, node), None
    _replace(graph, replaced)
    return len(replaced) // 2


def _joined(added: Any, norm: Any) -> Any:
    from onnx import helper

    return helper.make_node(
        "SkipSimplifiedLayerNormalization",
        [*added.input, norm.input[1]],
        [norm.output[0], "", "", added.output[0]],
        domain=MICROSOFT,
        epsilon=number(norm, "epsilon", 1e-5),
    )


def join_silu(graph: Any) -> int:
    """Each x * sigmoid(x); returns how many."""
    from onnx import helper

    walk, replaced = Walk(graph), {}
    for node in graph.node:
        gate = walk.makers.get(node.input[1]) if node.op_type == "Mul" else None
        if gate is not None and gate.op_type == "Sigmoid" and gate.input[0] == node.input[0]:
            made = helper.make_node("QuickGelu", [node.input[0]], [node.output[0]], domain=MICROSOFT, alpha=1.0)
            replaced[id(node)] = made
    _replace(graph, replaced)
    return len(replaced)


def _replace(graph: Any, by: dict[int, Any]) -> None:
    """Put nodes in the place of others, by their id; None takes one out."""
    nodes = [by.get(id(node), node) for node in graph.node]
    nodes = [node for node in nodes if node is not None]
    del graph.node[:]
    graph.node.extend(nodes)

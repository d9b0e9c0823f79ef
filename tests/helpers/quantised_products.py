"""Products with quantised weights, counted in graphs as they were exported."""

from __future__ import annotations

from pathlib import Path

import onnx


def quantised(graph: Path) -> int:
    """How many MatMul nodes read weights that are stored in 8 or 4 bits."""
    nodes = onnx.load(graph, load_external_data=False).graph.node
    stored = {t.name for t in onnx.load(graph, load_external_data=False).graph.initializer}
    dense = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] in stored}
    return sum(n.op_type == "MatMul" and bool(dense.intersection(n.input)) for n in nodes)

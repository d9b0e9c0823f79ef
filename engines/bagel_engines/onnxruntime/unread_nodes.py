"""What a rewritten graph no longer needs: ONNX Runtime (1.31.1) would go on computing some of it in every call."""

from __future__ import annotations

from typing import Any


def drop_unread(graph: Any) -> None:
    """Take out nodes whose results nobody reads, those only they read from, and constants that are left over."""
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(_read(node))
            kept.append(node)
    stored = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(stored)


def _read(node: Any) -> set[str]:
    """Names a node reads, those its inner graphs read included."""
    inner = (name for a in node.attribute if a.HasField("g") for n in a.g.node for name in _read(n))
    return {*node.input, *inner}

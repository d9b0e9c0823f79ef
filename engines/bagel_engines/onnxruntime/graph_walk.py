"""Walking a graph from a tensor to what made it, for rewriting passes that know what they look for."""

from __future__ import annotations

from typing import Any


class NotAsExpected(Exception):
    """A graph is not built as a rewriting pass knows it; it says where, and the graph is left as it is."""


class Walk:
    """Who makes and who reads each tensor of a graph, as it was when this was made."""

    def __init__(self, graph: Any):
        self.makers = {output: node for node in graph.node for output in node.output if output}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def maker(self, name: str, *kinds: str) -> Any:
        """The node that makes a tensor, which must be one of these kinds."""
        node = self.makers.get(name)
        if node is None or node.op_type not in kinds:
            raise NotAsExpected(f"{name} comes from {node.op_type if node else 'outside'}, not {' or '.join(kinds)}")
        return node

    def before(self, name: str, *kinds: str) -> str:
        """The tensor that nodes of these kinds, last one first, took as their first input on the way to `name`."""
        for kind in kinds:
            name = self.maker(name, kind).input[0]
        return name


def number(node: Any, name: str, otherwise: float) -> float:
    """An attribute of one number."""
    for attribute in node.attribute:
        if attribute.name == name:
            return attribute.f if attribute.type == attribute.FLOAT else attribute.i
    return otherwise


def in_order(nodes: list[Any]) -> list[Any]:
    """Nodes in an order in which each comes after what it reads."""
    made = {name for node in nodes for name in node.output if name}
    done: set[str] = set()
    out, waiting = [], nodes
    while waiting:
        ready, later = [], []
        for node in waiting:
            fits = all(name in done or name not in made for name in node.input)
            (ready if fits else later).append(node)
            if fits:
                done.update(node.output)
        if not ready:
            raise NotAsExpected(f"{waiting[0].op_type} reads what is never made")
        out, waiting = out + ready, later
    return out

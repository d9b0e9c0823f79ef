"""Three products of the same rows made one: queries, keys and values of one GroupQueryAttention, which takes them so.

The weights of the one product are those of the three, one behind the other: their first axis is the outputs, as Gemm
with transB and the kernels for quantised weights read them. They lie in no file (made_weights.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bagel_engines.onnxruntime.graph_walk import Walk, in_order, number
from bagel_engines.onnxruntime.made_weights import Behind, Made, stated
from bagel_engines.onnxruntime.quantised_products import FP8, NBITS

WEIGHTS = {"Gemm": slice(1, None), NBITS: slice(1, 3), FP8: slice(1, 3)}  # inputs with an entry for each output

Weights = Mapping[str, Made]


@dataclass(frozen=True)
class _Line:
    """A product, and the node behind it that adds a bias where there is one."""

    product: Any
    bias: Any = None

    @property
    def nodes(self) -> list[Any]:
        return [self.product] if self.bias is None else [self.product, self.bias]

    @property
    def out(self) -> str:
        return self.nodes[-1].output[0]

    @property
    def weights(self) -> list[str]:
        return list(self.product.input[WEIGHTS[self.product.op_type]])

    @property
    def added(self) -> list[str]:
        return [] if self.bias is None else list(self.bias.input[1:])

    def form(self) -> tuple:
        """Alike in products that can be one."""
        others = [name for name in self.product.input if name not in self.weights]
        how = sorted((a.name, a.SerializeToString()) for a in self.product.attribute if a.name != "N")
        return self.product.op_type, tuple(others), len(self.weights), len(self.added), tuple(how)


def pack_products(graph: Any, made: Weights) -> dict[str, Made]:
    """Rewrite a graph with fused attention; returns what it now has beside `made` of initializers no file holds."""
    walk, packed = Walk(graph), dict[str, Made]()
    weights = {tensor.name: _as_it_is(tensor) for tensor in graph.initializer} | dict(made)
    nodes: list[Any] = []
    gone: set[int] = set()
    for node in graph.node:
        if node.op_type == "GroupQueryAttention" and (lines := _lines(walk, node, weights)):
            nodes += _packed(walk, node, lines, packed, weights)
            gone |= {id(one) for line in lines for one in line.nodes}
        nodes.append(node)
    stated(graph, packed)
    kept = [node for node in nodes if id(node) not in gone]
    del graph.node[:]
    graph.node.extend(in_order(kept))
    return packed


def _as_it_is(tensor: Any) -> Made:
    return Made((tensor.name,), Behind(), tensor.data_type, tuple(tensor.dims))


def _lines(walk: Walk, attention: Any, weights: Weights) -> list[_Line]:
    """The products that make its queries, keys and values, if they can be one."""
    lifted = [walk.makers.get(name) for name in attention.input[:3]]
    found = [_line(walk, node.input[0], weights) for node in lifted if node is not None]
    lines = [line for line in found if line is not None]
    return lines if len(lines) == 3 and len({line.form() for line in lines}) == 1 else []


def _line(walk: Walk, name: str, weights: Weights) -> _Line | None:
    node, bias = walk.makers.get(name), None
    if node is not None and node.op_type == "Add" and node.input[1] in weights:
        node, bias = walk.makers.get(node.input[0]), node
    if node is None or node.op_type not in WEIGHTS or (node.op_type == "Gemm" and not number(node, "transB", 0)):
        return None
    line = _Line(node, bias)
    return line if {*line.weights, *line.added} <= set(weights) else None


def _packed(walk: Walk, attention: Any, lines: list[_Line], packed: dict[str, Made], weights: Weights) -> list[Any]:
    """The nodes before the attention, which is changed to read the one product."""
    from onnx import helper, numpy_helper

    first, out = lines[0], f"{lines[0].out}_packed"
    names = [_behind(parts, packed, weights) for parts in zip(*(line.weights for line in lines), strict=True)]
    product = type(first.product)()
    product.CopyFrom(first.product)
    product.name, product.input[WEIGHTS[product.op_type]] = out, names
    _set_outputs(product, sum(weights[line.weights[0]].shape[0] for line in lines))
    product.output[0] = out if first.bias is None else f"{out}_without_bias"
    nodes = [product]
    if first.bias is not None:
        bias = _behind(tuple(line.added[0] for line in lines), packed, weights)
        nodes.append(helper.make_node("Add", [product.output[0], bias], [out], name=f"{out}_bias"))
    lifted = walk.maker(attention.input[0], "Unsqueeze")
    nodes.append(helper.make_node("Unsqueeze", [out, lifted.input[1]], [f"{out}_3d"], name=f"{out}_3d"))
    if len(walk.readers[first.out]) > 1:  # the und queries of gen_step attend by themselves, too
        width = weights[first.weights[0]].shape[0]
        bounds = {f"{out}_{end}": np.array([end], np.int64) for end in (0, width, 1)}
        nodes += [helper.make_node("Constant", [], [n], value=numpy_helper.from_array(a)) for n, a in bounds.items()]
        nodes.append(helper.make_node("Slice", [out, *bounds], [first.out], name=f"{out}_queries"))
    attention.input[:] = [f"{out}_3d", "", "", *attention.input[3:]]
    return nodes


def _behind(names: tuple[str, ...], packed: dict[str, Made], weights: Weights) -> str:
    """The name of the weights of several products, one behind the other."""
    whole, each = f"{names[0]}.packed", [weights[name] for name in names]
    shape = (sum(one.shape[0] for one in each), *each[0].shape[1:])
    packed[whole] = Made(tuple(part for one in each for part in one.parts), each[0].how, each[0].type, shape)
    return whole


def _set_outputs(product: Any, count: int) -> None:
    for attribute in product.attribute:
        if attribute.name == "N":
            attribute.i = count

"""Thin products beside a graph's own, chosen in every call: adapters that are switched without another graph.

Behind a product y = x W (and its bias) stands y + ((x D^T) * s) U. D and U hold the matrices of all adapters one behind
the other along their rank; two small inputs pick rows of both, and say what each is multiplied by. A call that picks
none adds zeros, which changes no bit, and computes nothing for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines.protocol import EngineFailure, LowRank

FLOAT, INT64 = 1, 7  # ONNX's numbers of types
NOWHERE = "given to the session"  # in place of a file's name


@dataclass(frozen=True)
class Product:
    """A product of a graph: the rows that it takes, the tensor that it makes behind its bias, the node that makes that,
    and ONNX's number of their type."""

    rows: str
    made: str
    last: Any
    type: int


def add_low_rank(model: Any, wanted: LowRank) -> dict[str, np.ndarray]:
    """Add thin products to a model, in place; returns the new initializers, which lie in no file.

    Raises EngineFailure where a weight is not that of one product, or more.
    """
    graph = model.graph
    found = Graph(graph)
    arrays, behind = {}, {}
    for number, (weight, thin) in enumerate(wanted.products.items()):
        down, up = f"{weight}.down", f"{weight}.up"
        arrays |= {down: thin.down, up: thin.up}
        for product in found.products(weight):
            added = _beside(product, f"adapted_{number}_{product.made}", (down, up), wanted)
            behind[product.last.output[0]] = added
    nodes = [made for node in graph.node for made in (node, *behind.get(node.output[0], ()))]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(_elsewhere(name, array) for name, array in arrays.items())
    graph.input.extend(_inputs(wanted))
    return arrays


def stored_names(graph: Path) -> list[str]:
    """Names of all weights of a graph file."""
    return [tensor.name for tensor in _read(graph).initializer]


def linear_weights(graph: Path) -> dict[str, tuple[int, int]]:
    """The weights that rows are multiplied by in a graph file: (outputs, inputs), whichever way they are stored."""
    read = _read(graph)
    dims = {tensor.name: tuple(tensor.dims) for tensor in read.initializer}
    stored = {node.output[0]: node.input[0] for node in read.node if node.op_type == "DequantizeLinear"}
    found = {}
    for node in read.node:
        weight = stored.get(node.input[1], node.input[1]) if node.op_type in ("Gemm", "MatMul") else ""
        if len(shape := dims.get(weight, ())) == 2:
            found[weight] = shape if any(a.name == "transB" and a.i for a in node.attribute) else shape[::-1]
    return found


def _read(path: Path) -> Any:
    import onnx

    try:
        return onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf's own
        raise EngineFailure(f"{path} is not an ONNX graph: {error}") from error


class Graph:
    """Who reads and makes what in a graph."""

    def __init__(self, graph: Any):
        self._types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def products(self, weight: str) -> Iterator[Product]:
        """The products of a weight, whether it is kept as it is or quantised."""
        dense, kind = weight, self._types.get(weight, 0)
        for node in self._readers.get(weight, ()):
            if node.op_type == "DequantizeLinear":
                dense, kind = node.output[0], self._types[node.input[1]]
        nodes = [node for node in self._readers.get(dense, ()) if node.op_type in ("Gemm", "MatMul")]
        if not nodes or any(node.input[1] != dense for node in nodes):
            raise EngineFailure(f"the graph has no product of rows with '{weight}', to put an adapter's beside")
        for node in nodes:
            last = self._with_bias(node)
            yield Product(node.input[0], last.output[0], last, kind)

    def _with_bias(self, node: Any) -> Any:
        """The node that adds a bias to a product, if there is one: engines compute the two at once."""
        readers = self._readers.get(node.output[0], ())
        if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in self._outputs:
            return node
        (add,) = readers
        return add if any(name in self._types for name in add.input) else node


def _beside(product: Product, name: str, thin: tuple[str, str], wanted: LowRank) -> list[Any]:
    """The nodes behind a product, which is renamed: what it made is now the sum."""
    from onnx import helper

    def node(kind: str, inputs: list[str], step: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, [f"{name}_{step}"], name=f"{name}_{step}", **attributes)

    plain, narrow = f"{name}_plain", product.type != FLOAT
    product.last.output[0] = plain
    rows, low = product.rows, f"{name}_low"
    nodes = [
        node("Gather", [thin[0], wanted.columns], "down", axis=0),
        node("Gather", [thin[1], wanted.columns], "up", axis=0),
        node("Transpose", [f"{name}_down"], "turned", perm=[1, 0]),
    ]
    if narrow:
        nodes.append(node("Cast", [rows], "rows", to=FLOAT))
        rows = f"{name}_rows"
    nodes += [
        node("MatMul", [rows, f"{name}_turned"], "thin"),
        node("Mul", [f"{name}_thin", wanted.scales], "scaled"),
        node("MatMul", [f"{name}_scaled", f"{name}_up"], "low"),
    ]
    if narrow:
        nodes.append(node("Cast", [low], "narrow", to=product.type))
        low = f"{name}_narrow"
    return [*nodes, helper.make_node("Add", [plain, low], [product.made], name=f"{name}_sum")]


def _inputs(wanted: LowRank) -> list[Any]:
    from onnx import helper

    return [
        helper.make_tensor_value_info(wanted.columns, INT64, ["adapter_rank"]),
        helper.make_tensor_value_info(wanted.scales, FLOAT, ["adapter_rank"]),
    ]


def _elsewhere(name: str, array: np.ndarray) -> Any:
    """An initializer whose values the session is given, or finds at an address."""
    from onnx import TensorProto

    tensor = TensorProto(name=name, data_type=FLOAT, dims=array.shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": NOWHERE, "offset": "0", "length": str(array.nbytes)}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor

"""fp8 products of many rows multiplied in 8 bits (GemmFloat8), where MatMulBlockQuantizedFp8Weight would widen them.

On an H100 GemmFloat8 took 0.56 ms for 4096 rows of 3584 x 18944, the other 0.85, float16 0.78 (1.31.1). It takes one
scale for all weights: the others are factors of its result. It allocates and waits in each call, so it can neither be
captured nor pay for few rows: the graph for many rows is beside the one for few, over the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bagel_engines.onnxruntime.graph_walk import in_order
from bagel_engines.onnxruntime.made_weights import Made, stated
from bagel_engines.onnxruntime.quantised_products import FLOAT, FLOAT8, FP8, MICROSOFT

GEN = "gen"  # the input with as many rows as a picture has latents
FLOAT16, BFLOAT16 = 10, 16
ATTENTION = ("GroupQueryAttention", "MultiHeadAttention", "Attention")


@dataclass(frozen=True)
class Middle:
    """The one scale of a product: the middle one of its outputs', so that its result is neither large nor small."""

    def __call__(self, *parts: np.ndarray) -> np.ndarray:
        return np.array([_middle(parts)], np.float32)


@dataclass(frozen=True)
class Ratios:
    """What is left for each output of its scale."""

    type: int

    def __call__(self, *parts: np.ndarray) -> np.ndarray:
        from onnx import helper

        ratios = np.concatenate(parts).astype(np.float32) / _middle(parts)
        return ratios.astype(helper.tensor_dtype_to_np_dtype(self.type))


def _middle(parts: tuple[np.ndarray, ...]) -> np.float32:
    return np.float32(np.median(np.concatenate(parts).astype(np.float32)))


def multiply_in_8_bits(model: Any, made: Mapping[str, Made]) -> dict[str, Made]:
    """Rewrite the products of GEN's rows; returns the initializers that no file holds and the graph now has beside
    `made`."""
    graph, more = model.graph, dict[str, Made]()
    kind = next(value for value in graph.input if value.name == "pool").type.tensor_type.elem_type
    rows, rounded = _rows_of(graph, GEN), dict[str, str]()
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == FP8 and node.input[0] in rows:
            nodes += _in_8_bits(node, kind, made, more, rounded)
        else:
            nodes.append(node)
    if more:
        nodes.append(_constant("float8_middle", np.array(0, np.uint8), FLOAT8))
    del graph.node[:]
    graph.node.extend(in_order(nodes))
    stated(graph, more)
    return more


def _rows_of(graph: Any, name: str) -> set[str]:
    """Tensors with a row for each of an input's: attention gives as many as it has queries."""
    found = {name}
    for node in graph.node:
        read = node.input[:1] if node.op_type in ATTENTION else node.input
        if found.intersection(read):
            found.update(node.output[:1] if node.op_type in ATTENTION else node.output)
    return found


def _in_8_bits(node: Any, kind: int, made: Mapping[str, Made], more: dict[str, Made], rounded: dict[str, str]) -> list:
    from onnx import helper

    (rows, weights, scales, step), out = node.input[:4], node.output[0]
    parts, outputs = made[scales].parts, made[scales].shape[0]
    more[f"{scales}.middle"] = Made(parts, Middle(), FLOAT, (1,))
    more[f"{scales}.ratios"] = Made(parts, Ratios(kind), kind, (outputs,))
    nodes = [] if f"{rows}.{step}" in rounded else _rounding(rows, step, kind, rounded)
    given = [rounded[f"{rows}.{step}"], weights, "", step, f"{scales}.middle"]
    how = {"transB": 1, "dtype": kind, "domain": MICROSOFT, "name": out}
    return [
        *nodes,
        helper.make_node("GemmFloat8", given, [f"{out}.of_one_scale"], **how),
        helper.make_node("Mul", [f"{out}.of_one_scale", f"{scales}.ratios"], [out]),
    ]


def _rounding(rows: str, step: str, kind: int, rounded: dict[str, str]) -> list[Any]:
    """Rows divided by their step and rounded to 8 bits; bfloat16 goes through float16, as only that has a kernel."""
    from onnx import helper

    name, given = f"{rows}.{step}", rows
    rounded[name] = f"{name}.float8"
    nodes = [helper.make_node("Cast", [step], [f"{name}.narrow"], to=FLOAT16)]
    if kind == BFLOAT16:
        given = f"{name}.half"
        nodes.append(helper.make_node("Cast", [rows], [given], to=FLOAT16))
    made = helper.make_node("QuantizeLinear", [given, f"{name}.narrow", "float8_middle"], [rounded[name]])
    return [*nodes, made]


def _constant(name: str, value: np.ndarray, kind: int) -> Any:
    from onnx import TensorProto, helper

    tensor = TensorProto(name=name, data_type=kind, dims=value.shape, raw_data=value.tobytes())
    return helper.make_node("Constant", [], [name], value=tensor)

"""A fused graph as ONNX Runtime's CPU can run it: its GroupQueryAttention knows no norms, so they come before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from float8_outside import without_float8
from onnx import helper, numpy_helper

from bagel_engines.onnxruntime.cuda_form import CudaForm, made_values, with_fused_attention


def on_cpu(form: CudaForm, graph: Path, change: Any = None) -> tuple[Any, dict[str, np.ndarray]]:
    """The graph, and the weights a session must be given. change: done to both before. graph: of the artefact."""
    model = onnx.load_from_string(form.model)
    weights = {name: array for name, (array, _) in made_values(graph, form, ()).items()}
    if change:
        change(model, weights)
    nodes = []
    for number, node in enumerate(model.graph.node):
        norms = list(node.input[14:16]) if node.op_type == "GroupQueryAttention" else []
        nodes += _outside(node, norms, f"outside_{number}") if norms else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model, without_float8(model, weights)


def fused_for_cpu(graph: Path, kind: str) -> CudaForm | None:
    """What with_fused_attention makes, for an engine on the host."""
    form = with_fused_attention(graph, kind)
    return replace(form, model=on_cpu(form, graph)[0].SerializeToString()) if form else None


def _outside(node: Any, norms: list[str], name: str) -> list[Any]:
    how = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    heads, kv, epsilon = how["num_heads"], how["kv_num_heads"], how.pop("qk_norm_epsilon")
    made, parts = [], list(node.input[:3])

    def constant(values: list[int]) -> str:
        made.append(
            helper.make_node("Constant", [], [f"{name}_{len(made)}"], value=numpy_helper.from_array(np.array(values)))
        )
        return made[-1].output[0]

    if not parts[1]:
        packed = constant([1, 0, heads + 2 * kv, -1])
        made.append(helper.make_node("Reshape", [parts[0], packed], [f"{name}_heads"]))
        parts = [f"{name}_{part}" for part in "qkv"]
        made.append(helper.make_node("Split", [f"{name}_heads", constant([heads, kv, kv])], parts, axis=2))
    for i, count in enumerate((heads, kv, kv)):
        shape = constant([1, 0, count, -1]) if i < 2 else ""
        if i < 2:
            made.append(helper.make_node("Reshape", [parts[i], shape], [f"{name}_{i}_apart"]))
            made.append(
                helper.make_node(
                    "RMSNormalization", [f"{name}_{i}_apart", norms[i]], [f"{name}_{i}_normed"], epsilon=epsilon
                )
            )
            parts[i] = f"{name}_{i}_normed"
        made.append(helper.make_node("Reshape", [parts[i], constant([1, 0, -1])], [f"{name}_{i}_flat"]))
        parts[i] = f"{name}_{i}_flat"
    inside = [*parts, *node.input[3:11]]
    return [*made, helper.make_node(node.op_type, inside, list(node.output), domain=node.domain, **how)]

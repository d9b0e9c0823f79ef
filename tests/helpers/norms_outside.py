"""A fused graph as ONNX Runtime's CPU can run it: its GroupQueryAttention knows no norms, so they come before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bagel_engines.onnx_files import values_of
from bagel_engines.onnxruntime.cuda_form import CudaForm, with_fused_attention


def on_cpu(form: CudaForm, folder: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """The graph, and the weights a session must be given. folder: of the artefact."""
    model = onnx.load_from_string(form.model)
    nodes = []
    for number, node in enumerate(model.graph.node):
        norms = list(node.input[14:16]) if node.op_type == "GroupQueryAttention" else []
        nodes += _outside(node, norms, f"outside_{number}") if norms else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model, given(form, folder)


def fused_for_cpu(graph: Path, causal: bool) -> CudaForm | None:
    """What with_fused_attention makes, for an engine on the host."""
    form = with_fused_attention(graph, causal)
    return CudaForm(on_cpu(form, graph.parent)[0].SerializeToString(), form.packed) if form else None


def given(form: CudaForm, folder: Path) -> dict[str, np.ndarray]:
    stored = {tensor.name: tensor for tensor in onnx.load_from_string(form.model).graph.initializer}
    portable = {t.name: t for path in ("und_step", "gen_step") for t in _stored(folder / f"{path}.onnx")} | stored
    return {
        name: np.concatenate([values_of(portable[part], folder) for part in parts])
        for name, parts in form.packed.items()
    }


def _stored(graph: Path) -> Any:
    return onnx.load(str(graph), load_external_data=False).graph.initializer


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
    inside = [*parts, *node.input[3:9]]
    return [*made, helper.make_node(node.op_type, inside, list(node.output), domain=node.domain, **how)]

"""A step graph as ONNX Runtime runs it on CUDA: made at load from the portable graph, which stays the artefact's.

fused_attention.py, fused_rows.py and packed_products.py say what is rewritten and why. GroupQueryAttention has no
float32 kernel on CUDA (1.31.1), so a graph that computes in float32 keeps its attention.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines.onnx_files import Place, unfused_places, values_of
from bagel_engines.onnxruntime.fused_attention import Heads, fuse_attention, layers_of
from bagel_engines.onnxruntime.fused_rows import join_norms, join_silu
from bagel_engines.onnxruntime.graph_walk import NotAsExpected
from bagel_engines.onnxruntime.masked_runner import ALL, CAUSAL
from bagel_engines.onnxruntime.packed_products import Packed, pack_products
from bagel_engines.onnxruntime.pool_half import take_half_as_input
from bagel_engines.onnxruntime.unread_nodes import drop_unread

STEPS = ("und_step", "gen_step", "layer")  # graphs with attention over the cache


@dataclass(frozen=True)
class CudaForm:
    """model: the graph as bytes; it still refers to the weight files beside the original. packed: initializers that no
    file holds, and which ones each is made of, one behind the other."""

    model: bytes
    packed: Packed = field(default_factory=dict)


Fused = Callable[[Path, bool], CudaForm | None]  # of a graph, causal or not


def masks_of(graph: Path) -> tuple[str, ...]:
    """Kinds of masks (masked_runner.py) for which a graph has a form with fused attention, the commonest first."""
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    try:
        return (ALL,) if len(layers_of(model.graph)[0].experts) == 2 else (CAUSAL, ALL)
    except NotAsExpected:
        return ()


def with_fused_attention(graph: Path, causal: bool) -> CudaForm | None:
    """A step graph for masks of one kind, which are not its input then: causal, or everything for everyone.

    A graph of both experts has no causal form. None where the graph is not built as these passes know it. Needs the
    onnx package.
    """
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    try:
        if not take_half_as_input(model):
            return None
        if causal and len(layers_of(model.graph)[0].experts) == 2:
            return None
        fuse_attention(model, _heads(model), causal)
    except NotAsExpected:
        return None
    drop_unread(model.graph)
    packed = pack_products(model.graph)
    join_norms(model.graph)
    join_silu(model.graph)
    drop_unread(model.graph)
    return CudaForm(model.SerializeToString(), packed)


def with_fused_rows(graph: Path, half: bool) -> CudaForm | None:
    """A step graph with its attention and mask as they are. half: the pool's length is an input, as capture wants it.

    None where there is nothing to change.
    """
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    changed = take_half_as_input(model) if half else False
    joined = join_norms(model.graph)
    _with_microsoft(model)
    joined += join_silu(model.graph)
    if not (changed or joined):
        return None
    drop_unread(model.graph)
    return CudaForm(model.SerializeToString())


def _heads(model: Any) -> Heads:
    """The sizes of attention: dim and key-value heads from the pool, queries from the first query product's width."""
    pool = next(value for value in model.graph.input if value.name == "pool")
    _, kv, dim = (d.dim_value for d in pool.type.tensor_type.shape.dim)
    width = _width(model.graph, layers_of(model.graph)[0].experts[0].q)
    return Heads(width // dim, kv, dim)


def _width(graph: Any, product: str) -> int:
    """Columns of a product: its bias has as many."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made = next(node for node in graph.node if product in node.output)
    sizes = [stored[name].dims[0] for name in made.input if name in stored and len(stored[name].dims) == 1]
    if not sizes:
        raise NotAsExpected(f"{product} has no bias")
    return sizes[0]


def _with_microsoft(model: Any) -> None:
    from onnx import helper

    if not any(entry.domain == "com.microsoft" for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def places_of_form(graph: Path, form: CudaForm | None) -> dict[str, tuple[Place, ...]]:
    """Where the weights of a graph lie that sessions can share, by their names in the form; None is the graph itself.

    A packed one has the places of its parts.
    """
    places = unfused_places(graph)
    if form is None:
        return {name: (place,) for name, place in places.items()}
    stored = _stored(form)
    found = {name: (place,) for name, place in places.items() if name in stored}
    packed = {name: parts for name, parts in form.packed.items() if set(parts) <= set(places)}
    return found | {name: tuple(places[part] for part in parts) for name, parts in packed.items()}


def packed_values(graph: Path, form: CudaForm, lent: Container[str]) -> dict[str, tuple[np.ndarray, int]]:
    """The packed weights that are not lent, and ONNX's number of their types; bfloat16 as its bits."""
    import onnx

    wanted = {name: parts for name, parts in form.packed.items() if name not in lent}
    if not wanted:
        return {}
    tensors = {t.name: t for t in onnx.load(str(graph), load_external_data=False).graph.initializer}
    return {
        name: (np.concatenate([_bits(tensors[part], graph.parent) for part in parts]), tensors[parts[0]].data_type)
        for name, parts in wanted.items()
    }


def _bits(tensor: Any, folder: Path) -> np.ndarray:
    from onnx import TensorProto

    values = values_of(tensor, folder)
    return values.view(np.uint16) if tensor.data_type == TensorProto.BFLOAT16 else values


def _stored(form: CudaForm) -> set[str]:
    import onnx

    return {tensor.name for tensor in onnx.load_from_string(form.model).graph.initializer}

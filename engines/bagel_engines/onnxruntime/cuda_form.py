"""A graph as ONNX Runtime runs it on CUDA: made at load from the portable graph, which stays the artefact's.

What is rewritten and why: of step graphs fused_attention.py, fused_rows.py, packed_products.py and float8_products.py
say it, of all graphs with quantised weights quantised_products.py, of the VAE's vae_form.py. GroupQueryAttention has no
float32 kernel on CUDA (1.31.1), so a graph that computes in float32 keeps its attention.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines.onnx_files import places, unfused_places, values_of
from bagel_engines.onnxruntime.float8_products import GEN, multiply_in_8_bits
from bagel_engines.onnxruntime.fused_attention import Heads, fuse_attention, layers_of
from bagel_engines.onnxruntime.fused_rows import join_norms, join_silu
from bagel_engines.onnxruntime.graph_walk import NotAsExpected
from bagel_engines.onnxruntime.made_weights import Made, Source
from bagel_engines.onnxruntime.masked_runner import ALL, CAUSAL, DRAW, DRAWN, MANY, MANY_DRAW, OTHER
from bagel_engines.onnxruntime.packed_products import pack_products
from bagel_engines.onnxruntime.pool_half import take_half_as_input
from bagel_engines.onnxruntime.quantised_products import FLOAT8, know_microsoft, use_kernels
from bagel_engines.onnxruntime.unread_nodes import drop_unread
from bagel_engines.onnxruntime.vae_form import with_channels_last

STEPS = ("und_step", "gen_step", "layer")  # graphs with attention over the cache


@dataclass(frozen=True)
class CudaForm:
    """model: the graph as bytes; it still refers to the weight files beside the original. made: initializers that no
    file holds. halves: of the pool it reads; 0: as many as it gives new ones."""

    model: bytes
    made: Mapping[str, Made] = field(default_factory=dict)
    halves: int = 0


Fused = Callable[[Path, str], CudaForm | None]  # of a graph, for masks of a kind (masked_runner.py)


def masks_of(graph: Path) -> tuple[str, ...]:
    """Kinds of masks (masked_runner.py) for which a graph has a form with fused attention, the commonest first."""
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    try:
        return (ALL,) if len(layers_of(model.graph)[0].experts) == 2 else (CAUSAL, ALL)
    except NotAsExpected:
        return ()


def kinds_beside(graph: Path, float8: bool) -> tuple[str, ...]:
    """Kinds of calls for which a graph has forms beside those for its masks. float8: the device multiplies in it."""
    import onnx

    found = onnx.load(str(graph), load_external_data=False).graph
    if not any(value.name == GEN for value in found.input):
        return ()
    narrow = float8 and any(tensor.data_type == FLOAT8 and tensor.dims for tensor in found.initializer)
    return (DRAW, MANY, MANY_DRAW) if narrow else (DRAW,)


def with_fused_attention(graph: Path, kind: str) -> CudaForm | None:
    """A step graph for calls of one kind (masked_runner.py); their mask is its input only for OTHER.

    A graph of both experts has none for CAUSAL and OTHER; kinds_beside names those that only it has. None where the
    graph is not built as these passes know it. Needs the onnx package.
    """
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    try:
        if not take_half_as_input(model):
            return None
        if kind in (CAUSAL, OTHER) and len(layers_of(model.graph)[0].experts) == 2:
            return None
        layers = fuse_attention(model, _heads(model), kind == CAUSAL, kind == OTHER)
    except NotAsExpected:
        return None
    if kind in (DRAW, MANY_DRAW):
        _keep_drawn(model.graph)
    drop_unread(model.graph)
    made = use_kernels(model)
    made |= pack_products(model.graph, made)
    if kind in (MANY, MANY_DRAW):
        made |= multiply_in_8_bits(model, made)
    join_norms(model.graph)
    join_silu(model.graph)
    return _form(model, made, 2 * len(layers))


def _keep_drawn(graph: Any) -> None:
    """Leave a graph the outputs of a denoising step alone; what makes the others is unread then."""
    kept = [output for output in graph.output if output.name in DRAWN]
    del graph.output[:]
    graph.output.extend(kept)


def with_fused_rows(graph: Path, half: bool) -> CudaForm | None:
    """A step graph with its attention and mask as they are. half: the pool's length is an input, as capture wants it.

    None where there is nothing to change.
    """
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    changed = take_half_as_input(model) if half else False
    made = use_kernels(model)
    joined = join_norms(model.graph)
    know_microsoft(model)
    joined += join_silu(model.graph)
    return _form(model, made) if changed or joined or made else None


def with_kernels(graph: Path) -> CudaForm | None:
    """Any graph, whose products with quantised weights are changed; None where there are none."""
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    made = use_kernels(model)
    return _form(model, made) if made else None


def _form(model: Any, made: Mapping[str, Made], halves: int = 0) -> CudaForm:
    drop_unread(model.graph)
    read = {tensor.name for tensor in model.graph.initializer}
    return CudaForm(model.SerializeToString(), {name: one for name, one in made.items() if name in read}, halves)


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


def with_fused_vae(graph: Path, half: bool) -> CudaForm | None:
    """A VAE's graph in float16, or float32; None where it is not built as vae_form.py knows it."""
    found = with_channels_last(graph, half)
    return None if found is None else CudaForm(*found)


def sources_of(graph: Path, form: CudaForm | None) -> dict[str, Source]:
    """Where the weights of a graph come from that sessions can share, by their names in the form; None is the graph
    itself."""
    unfused = unfused_places(graph)
    if form is None:
        return {name: Source((place,)) for name, place in unfused.items()}
    stored, whole = _stored(form), places(graph)
    found = {name: Source((place,)) for name, place in unfused.items() if name in stored}
    made = {name: one for name, one in form.made.items() if set(one.parts) <= set(whole)}
    return found | {name: Source(tuple(whole[part] for part in one.parts), one) for name, one in made.items()}


def made_values(graph: Path, form: CudaForm, lent: Container[str]) -> dict[str, tuple[np.ndarray, int]]:
    """The made weights that are not lent, and ONNX's number of their types; those numpy has no name for as bytes."""
    import onnx

    wanted = {name: one for name, one in form.made.items() if name not in lent}
    if not wanted:
        return {}
    tensors = {t.name: t for t in onnx.load(str(graph), load_external_data=False).graph.initializer}
    return {
        name: (_plain(one.how(*(values_of(tensors[part], graph.parent) for part in one.parts))), one.type)
        for name, one in wanted.items()
    }


def _plain(array: np.ndarray) -> np.ndarray:
    """numpy's own types as they are, others as whole numbers of their size; contiguous, or sessions refuse it."""
    array = np.ascontiguousarray(array)
    return array if array.dtype.kind in "biuf" else array.view(f"u{array.dtype.itemsize}")


def _stored(form: CudaForm) -> set[str]:
    import onnx

    return {tensor.name for tensor in onnx.load_from_string(form.model).graph.initializer}

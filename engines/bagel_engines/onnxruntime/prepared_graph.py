"""A graph file as ONNX Runtime's CPU gets it: read with the onnx package, rewritten where its kernels fall short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines.low_rank import add_low_rank
from bagel_engines.onnxruntime.blocked_scales import block_scales
from bagel_engines.onnxruntime.chunk_attention import SCORES, chunk_attention
from bagel_engines.onnxruntime.integer_products import use_integer_products
from bagel_engines.onnxruntime.rounded_rows import round_rows
from bagel_engines.protocol import EngineFailure, LowRank

# where sessions look for weight files when a graph is given to them as bytes
WEIGHTS_BESIDE = "session.model_external_initializers_file_folder_path"

RECIPE = "3"  # of the rewriting; raised when the same file becomes another graph


def possible() -> bool:
    """Whether the package is there that graphs are rewritten with."""
    return find_spec("onnx") is not None


@dataclass(frozen=True)
class Prepared:
    """model: the graph as bytes; it still refers to the weight files beside the original. convolves: whether the
    quantised weights in it, if there are any, are those of convolutions alone. given: weights that a session must be
    given, by name."""

    model: bytes
    convolves: bool
    given: Mapping[str, np.ndarray] = field(default_factory=dict)


def prepared(
    graph: Path, scores: int = SCORES, rounded: bool = False, rows: bool = False, added: LowRank | None = None
) -> Prepared:
    """A graph file rewritten: attention for so many queries at once that their scores fit (chunk_attention), products
    of 8-bit rows and weights in integers (integer_products).

    rounded: the other quantised weights are to be multiplied as they are, in blocks (blocked_scales). rows: rows that
    they multiply are to be rounded, so that those products are computed in integers too (rounded_rows). added: products
    beside the graph's own, of rows that are not rounded (low_rank). Raises
    EngineFailure for a broken file.
    """
    import onnx

    try:
        model = onnx.load(str(graph), load_external_data=False)
    except Exception as error:  # protobuf's own
        raise EngineFailure(f"{graph} is not an ONNX graph: {error}") from error
    thin = add_low_rank(model, added) if added else {}
    given = round_rows(model, graph.parent) if rows else {}
    chunk_attention(model, scores)
    use_integer_products(model, graph.parent)
    if rounded:
        block_scales(model, graph.parent)
    return Prepared(model.SerializeToString(), _convolves(model), _as_stated(given, model) | thin)


def _as_stated(given: Mapping[str, np.ndarray], model: Any) -> dict[str, np.ndarray]:
    """Bytes read as signed or unsigned numbers, as the graph has them by now."""
    from onnx import helper

    kinds = {tensor.name: helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in model.graph.initializer}
    return {name: array.view(kinds[name]) for name, array in given.items()}


def _convolves(model: Any) -> bool:
    dense = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return all(node.op_type == "Conv" for node in model.graph.node if dense.intersection(node.input))

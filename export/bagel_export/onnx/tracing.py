"""Traces a wrapper module to an ONNX file whose initializers point into the artefact's weight file.

Modules are on the meta device: tracing needs no memory for weights.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from bagel_engines import disk
from bagel_export.onnx.quantized_nodes import Rewriter
from bagel_export.weights.write import WEIGHT_FILE, Placed, QuantizedTensor
from bagel_rt.artefact.contract import GraphSpec, TensorSpec, input_shapes

OPSET = 24
# one size per symbol while tracing: all different and none of them 0 or 1, which torch.export would take as constants
TRACE_SIZES = {
    "patches": 6,
    "und_rows": 3,
    "gen_rows": 5,
    "past": 7,
    "height": 32,
    "width": 48,
    "latent_height": 4,
    "latent_width": 6,
    "rows": 10,
    "columns": 12,
}
POOL_SLOTS = 11


def trace(module: nn.Module, spec: GraphSpec, halves: int) -> ir.Model:
    """The unoptimised ONNX graph of a module on the meta device; its initializers have no values yet."""
    shapes = input_shapes(spec, {**TRACE_SIZES, "pool_slots": POOL_SLOTS}, halves)
    examples = tuple(torch.empty(shapes[t.name], dtype=_torch_dtype(t), device="meta") for t in spec.inputs)
    dynamic = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(t.shape) if isinstance(dim, str)}
        for t in spec.inputs
    )
    with _quiet():
        program = torch.onnx.export(
            module,
            examples,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=dynamic,
            input_names=[t.name for t in spec.inputs],
            output_names=[t.name for t in spec.outputs],
            optimize=False,
            verbose=False,
        )
    assert program is not None
    return program.model


def attach_weights(model: ir.Model, weights: Mapping[str, Placed]) -> None:
    """Point every initializer at its place in the weight file and drop those the graph does not read."""
    rewriter = Rewriter(model.graph)
    for name in list(model.graph.initializers):
        value = model.graph.initializers[name]
        if not value.uses():
            del model.graph.initializers[name]
        elif isinstance(placed := weights.get(name), QuantizedTensor):
            rewriter.quantize(value, placed)
        elif placed is not None:
            value.const_value = placed
        elif value.const_value is None or isinstance(value.const_value, ir.ExternalTensor):
            raise AssertionError(f"parameter {name} has no place in the weight file")
    model.graph.sort()  # nodes that round a shared activation were added at the end, and must come before their readers


def finish(model: ir.Model, spec: GraphSpec, path: Path) -> None:
    """Simplify, name the dimensions as the contract does, and write the graph."""
    from onnxscript import optimizer

    with _quiet(), _mapped_weights(model):
        # size limits: small constants of shapes are folded, weights never, as that would copy them into the graph
        optimizer.optimize(model, input_size_limit=64, output_size_limit=4096)
    for value, stated in zip([*model.graph.inputs, *model.graph.outputs], [*spec.inputs, *spec.outputs], strict=True):
        value.name = stated.name
        value.shape = ir.Shape(stated.shape)
    model.graph.name = spec.name
    model.producer_name = "bagel-rt"
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    disk.write_by(path, lambda place: ir.save(model, place))


@contextlib.contextmanager
def _mapped_weights(model: ir.Model) -> Iterator[None]:
    """While simplifying, weights are mapped here: onnx_ir reads no file with several hard links (--weights link)."""
    places: dict[int, tuple[ir.LazyTensor, ir.ExternalTensor]] = {}
    for value in model.graph.initializers.values():
        if isinstance(place := value.const_value, ir.ExternalTensor) and place.location != WEIGHT_FILE:
            lazy = ir.LazyTensor(lambda p=place: _mapped(p), dtype=place.dtype, shape=place.shape, name=place.name)
            places[id(lazy)] = (lazy, place)
            value.const_value = lazy
    yield
    for value in model.graph.initializers.values():
        if id(value.const_value) in places:
            value.const_value = places[id(value.const_value)][1]


def _mapped(place: ir.ExternalTensor) -> ir.Tensor:
    shape = tuple(int(n) for n in place.shape)  # type: ignore[arg-type]
    file = Path(place.base_dir) / place.location
    values = disk.mapped(file, np.uint8, place.offset or 0, (place.length or 0,)).view(place.dtype.numpy())
    return ir.Tensor(values.reshape(shape), dtype=place.dtype)


def _torch_dtype(tensor: TensorSpec) -> torch.dtype:
    return getattr(torch, tensor.dtype)


_ONE_AT_A_TIME = threading.Lock()


@contextlib.contextmanager
def _quiet():
    """The exporter reports its own progress in warnings and logs; ours is the one to show.

    Warning filters and log levels are the whole process's. Two threads that changed them at once would each put back
    what it found, the other's change: so they trace one after the other, as the exporter needs anyway.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            warnings.simplefilter("ignore")
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

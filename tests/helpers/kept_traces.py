"""Traced graphs kept on disk for all processes of a test run, and for later runs of the same code.

Tracing is nearly all of a small export, and many tests export the same graphs in other precisions.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch

VERSIONS = tuple(version(package) for package in ("torch", "onnxscript", "onnx-ir"))
NOWHERE = "nowhere"  # the file of a tensor that has no values yet


def named(*described: Any) -> str:
    """The same for things that are equal, whichever process made them: without a memo pickles do not depend on which
    equal objects are one."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream)
    pickler.fast = True
    pickler.dump(described)
    return hashlib.sha256(stream.getvalue()).hexdigest()[:24]


def remembered(trace: Callable[..., ir.Model], folder: Path) -> Callable[..., ir.Model]:
    """`trace`, done once for each module, contract and number of halves."""
    found: dict[str, ir.Model] = {}

    def traced(module: torch.nn.Module, spec: Any, halves: int) -> ir.Model:
        name = named(module, spec, halves, VERSIONS)
        if name not in found:
            found[name] = _read(folder / name) or _kept(trace(module, spec, halves), folder / name)
        return found[name].clone()

    return traced


def _kept(model: ir.Model, path: Path) -> ir.Model:
    whole = model.clone()
    for value in whole.graph.initializers.values():
        if _is_empty(value.const_value):
            value.const_value = ir.ExternalTensor(
                NOWHERE, 0, None, value.const_value.dtype, shape=value.const_value.shape, name=value.name
            )
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(ir.serde.serialize_model(whole).SerializeToString())
    partial.replace(path)
    return model


def _is_empty(tensor: Any) -> bool:
    """A parameter of a module on the meta device; constants have values."""
    raw = getattr(tensor, "raw", None)
    return isinstance(raw, torch.Tensor) and raw.device.type == "meta"


def _read(path: Path) -> ir.Model | None:
    if not path.exists():
        return None
    model = ir.serde.deserialize_model(onnx.ModelProto.FromString(path.read_bytes()))
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor) and value.const_value.location == NOWHERE:
            value.const_value = None
    return model

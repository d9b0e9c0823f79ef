"""The artefact's one weight file: safetensors, written tensor by tensor, read in place by every graph."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir

from bagel_export.checkpoint import SourceTensor

WEIGHT_FILE = "weights.safetensors"
ALIGNMENT = 4096  # of the first tensor; the rest follow without gaps, as the format demands
FORMATS = {
    "float32": ("F32", np.dtype(np.float32), ir.DataType.FLOAT),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16), ir.DataType.BFLOAT16),
}


def weight_bytes(tensors: Iterable[SourceTensor], precision: str = "float32") -> int:
    return sum(t.stored.count for t in tensors) * FORMATS[precision][1].itemsize


def write_weights(
    tensors: Mapping[str, SourceTensor], path: Path, precision: str
) -> Generator[int, None, dict[str, int]]:
    """Stream all tensors into `path`, yielding the bytes of each piece; returns each tensor's byte offset.

    At no time more than one piece of one tensor is held in memory.
    """
    tag, dtype, _ = FORMATS[precision]
    header, position = {}, 0
    for name, tensor in tensors.items():
        end = position + tensor.stored.count * dtype.itemsize
        header[name] = {"dtype": tag, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            for piece in tensor.chunks():
                data = np.ascontiguousarray(piece.astype(dtype, copy=False))
                stream.write(data.view(np.uint8).data)
                yield data.nbytes
    return {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in header.items()}


def external_tensors(
    tensors: Mapping[str, SourceTensor], offsets: Mapping[str, int], folder: Path, precision: str
) -> dict[str, ir.ExternalTensor]:
    """What graph initializers point to, by parameter name: a place in the weight file beside the graph."""
    _, dtype, onnx_type = FORMATS[precision]
    return {
        name: ir.ExternalTensor(
            location=WEIGHT_FILE,
            offset=offsets[tensor.name],
            length=tensor.stored.count * dtype.itemsize,
            dtype=onnx_type,
            shape=ir.Shape(tensor.shape),
            name=name,
            base_dir=str(folder),
        )
        for name, tensor in tensors.items()
    }

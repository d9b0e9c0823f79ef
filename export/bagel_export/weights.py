"""The artefact's one weight file: safetensors, written tensor by tensor, read in place by every graph."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bagel_export.checkpoint import SourceTensor
from bagel_export.formats import FORMATS
from bagel_export.precision import Precision
from bagel_export.quantize import Storage, quantize, storage_of, stored_shapes

WEIGHT_FILE = "weights.safetensors"
ALIGNMENT = 4096  # of the first tensor; the rest follow without gaps, as the format demands
SCALE = ".scale"  # behind a quantised tensor's name: its scales


@dataclass(frozen=True)
class Part:
    """One entry of the weight file: a tensor, or the int8 values or the scales of one."""

    name: str
    format: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * FORMATS[self.format].dtype.itemsize


@dataclass(frozen=True)
class QuantizedTensor:
    """What a quantised initializer points to."""

    values: ir.ExternalTensor
    scale: ir.ExternalTensor
    storage: Storage

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scale.nbytes


Placed = ir.ExternalTensor | QuantizedTensor


def parts_of(tensor: SourceTensor, precision: Precision) -> list[Part]:
    """The entries a tensor becomes. What int8 does not take stays float32."""
    storage = storage_of(tensor, precision)
    if storage == "plain":
        return [Part(tensor.name, precision.stored(tensor.name), tensor.shape)]
    values, scale = stored_shapes(tensor.shape, storage)
    return [Part(tensor.name, "int8", values), Part(tensor.name + SCALE, "float32", scale)]


def weight_bytes(tensors: Iterable[SourceTensor], precision: Precision) -> int:
    return sum(part.nbytes for t in tensors for part in parts_of(t, precision))


def write_weights(
    tensors: Mapping[str, SourceTensor], path: Path, precision: Precision
) -> Generator[int, None, dict[str, int]]:
    """Stream all tensors into `path`, yielding the bytes of each piece; returns each entry's byte offset.

    At no time more than one piece of one tensor is held in memory, or one tensor where it is quantised.
    """
    header, position = {}, 0
    for part in (part for t in tensors.values() for part in parts_of(t, precision)):
        end = position + part.nbytes
        tag = FORMATS[part.format].tag
        header[part.name] = {"dtype": tag, "shape": list(part.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            for data in _pieces(tensor, precision):
                stream.write(data.view(np.uint8).data)
                yield data.nbytes
    return {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in header.items()}


def _pieces(tensor: SourceTensor, precision: Precision) -> Iterator[np.ndarray]:
    storage = storage_of(tensor, precision)
    if storage == "plain":
        dtype = FORMATS[precision.stored(tensor.name)].dtype
        for piece in tensor.chunks():
            yield np.ascontiguousarray(piece.astype(dtype, copy=False))
    else:
        yield from (np.ascontiguousarray(array) for array in quantize(tensor.array(), storage))


def external_tensors(
    tensors: Mapping[str, SourceTensor], offsets: Mapping[str, int], folder: Path, precision: Precision
) -> dict[str, Placed]:
    """What graph initializers point to, by parameter name: a place in the weight file beside the graph."""

    def place(part: Part, name: str) -> ir.ExternalTensor:
        return ir.ExternalTensor(
            location=WEIGHT_FILE,
            offset=offsets[part.name],
            length=part.nbytes,
            dtype=FORMATS[part.format].onnx,
            shape=ir.Shape(part.shape),
            name=name,
            base_dir=str(folder),
        )

    placed: dict[str, Placed] = {}
    for name, tensor in tensors.items():
        parts = parts_of(tensor, precision)
        if len(parts) == 1:
            placed[name] = place(parts[0], name)
        else:
            values, scale = place(parts[0], name), place(parts[1], name + SCALE)
            placed[name] = QuantizedTensor(values, scale, storage_of(tensor, precision))
    return placed

"""The artefact's one weight file: safetensors, written tensor by tensor, read in place by every graph."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from bagel_engines import disk
from bagel_export.checkpoint.open import SourceTensor
from bagel_export.quantization.formats import FORMATS
from bagel_export.quantization.quantize import KEPT_AS, Layout, packed, packed_bytes, quantize
from bagel_export.quantization.recipe import Recipe, Treatment

WEIGHT_FILE = "weights.safetensors"
ALIGNMENT = 4096  # bytes; the first tensor begins at a multiple, the rest follow without gaps, as the format demands
PIECE = 1 << 25  # weights rounded at once
SCALE = ".scale"  # behind a quantised tensor's name: its scales


@dataclass(frozen=True)
class Part:
    """One entry of the weight file: a tensor, or the rounded values or the scales of one."""

    name: str
    format: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return packed_bytes(self.format, self.shape)

    def header(self, start: int) -> dict[str, Any]:
        """Its line in a safetensors header, which knows no 4-bit numbers: those are stated as their bytes."""
        shape = [self.nbytes] if self.format == "int4" else list(self.shape)
        return {"dtype": FORMATS[self.format].tag, "shape": shape, "data_offsets": [start, start + self.nbytes]}


@dataclass(frozen=True)
class QuantizedTensor:
    """What a quantised initializer points to."""

    values: ir.ExternalTensor
    scale: ir.ExternalTensor
    layout: Layout
    reach: float | None = None  # this and `rotated`: see recipe.Treatment
    rotated: int = 0

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scale.nbytes


Placed = ir.ExternalTensor | QuantizedTensor


def parts_of(tensor: SourceTensor, treatment: Treatment) -> list[Part]:
    """The entries a tensor becomes."""
    layout = treatment.layout
    if layout is None:
        return [Part(tensor.name, treatment.stored, tensor.shape)]
    values, scale = layout.shapes(tensor.shape)
    return [Part(tensor.name, KEPT_AS[layout.form], values), Part(tensor.name + SCALE, treatment.stored, scale)]


def weight_bytes(tensors: Iterable[SourceTensor], recipe: Recipe) -> int:
    return sum(part.nbytes for t in tensors for part in parts_of(t, recipe[t.name]))


def write_weights(
    tensors: Mapping[str, SourceTensor], path: Path, recipe: Recipe
) -> Generator[int, None, dict[str, int]]:
    """Stream all tensors into `path`, yielding the bytes of each piece; returns each entry's byte offset.

    At no time more than one piece of one tensor is held in memory, or one tensor where each of its outputs has a single
    scale.
    """
    header, position = {}, 0
    for part in (part for t in tensors.values() for part in parts_of(t, recipe[t.name])):
        header[part.name] = part.header(position)
        position += part.nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with disk.opened(path, "wb") as stream:
        disk.write(stream, len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            for data in _pieces(tensor, recipe[tensor.name]):
                disk.write(stream, data.data)
                yield data.nbytes
    return {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in header.items()}


def _pieces(tensor: SourceTensor, how: Treatment) -> Iterator[np.ndarray]:
    """The bytes of a tensor's entries, in order."""
    dtype = FORMATS[how.stored].dtype
    if how.layout is not None:
        yield from _rounded_pieces(tensor, how, how.layout)
    elif how.as_it_is:
        for piece in tensor.chunks():
            yield packed(piece.astype(dtype, copy=False))
    else:
        yield packed(how.prepared(tensor.array()).astype(dtype))


def _rounded_pieces(tensor: SourceTensor, how: Treatment, layout: Layout) -> Iterator[np.ndarray]:
    """The values, a few blocks of inputs at a time, then all the scales, which follow them in the file."""
    scales = []
    for inputs in _input_slices(tensor, layout):
        importance = None if how.importance is None else how.importance[inputs]
        weight = how.prepared(tensor.columns(inputs), inputs)
        values, scale = quantize(weight, layout, importance, how.stored)
        scales.append(scale)
        yield packed(values)
    yield packed(np.concatenate(scales))


def _input_slices(tensor: SourceTensor, layout: Layout) -> Iterator[slice]:
    """Slices of whole blocks of inputs; one slice where scales span all inputs, or rows of an adapter are added."""
    width = tensor.shape[1]
    whole = not layout.block or not tensor.as_stored
    step = width if whole else max(1, PIECE // (tensor.shape[0] * layout.block)) * layout.block
    return (slice(start, min(start + step, width)) for start in range(0, width, step))


def external_tensors(
    tensors: Mapping[str, SourceTensor], offsets: Mapping[str, int], folder: Path, recipe: Recipe
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
        how = recipe[tensor.name]
        parts = parts_of(tensor, how)
        if how.layout is None:
            placed[name] = place(parts[0], name)
        else:
            values, scale = place(parts[0], name), place(parts[1], name + SCALE)
            placed[name] = QuantizedTensor(values, scale, how.layout, how.reach, how.rotated)
    return placed

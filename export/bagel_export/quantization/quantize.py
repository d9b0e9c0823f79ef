"""Rounds weights to few bits: the values and scales that are stored, and the float32 weight they stand for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bagel_export.quantization.formats import FORMATS

BLOCKS = {"int8": (128, 64, 32), "int4": (64, 32)}  # inputs of one output that share a scale: the largest that divides
LEVELS = {"int8": 127, "int4": 7, "w8a8": 127, "conv8": 127}
LEAST = {"int4": -8}  # one level more on the negative side
FP8_LARGEST = 448.0
LEAST_ROW = 1e-6  # rows are divided by their largest number, but at least by this: a row may be all zeros
KEPT_AS = {"int8": "int8", "int4": "int4", "w8a8": "int8", "fp8": "fp8", "conv8": "int8"}
# int4 scales that are tried: these shares of a block's largest weight become the largest level, the rest is clipped
SEARCHED = np.linspace(0.65, 1.0, 15, dtype=np.float32)
PIECE = 1 << 22  # weights searched at once


@dataclass(frozen=True)
class Layout:
    """How the values and scales of one quantised weight lie: `form` a key of KEPT_AS, `block` inputs to a scale.

    A Linear's (out, in) is turned to (in, out), the form engines fuse; block 0 has one scale for each output. A
    convolution ("conv8") keeps its order and has a scale for each output channel.
    """

    form: str
    block: int = 0

    def shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the stored values and of the scales, for a weight of that shape in the checkpoint."""
        if self.form == "conv8":
            return shape, shape[:1]
        outputs, inputs = shape
        return (inputs, outputs), ((inputs // self.block, outputs) if self.block else (outputs,))


def layout_for(form: str, shape: tuple[int, ...]) -> Layout | None:
    """The layout of a weight under a precision's form; None where it stays as it is.

    Where no block divides a weight's inputs it has 8 bits and one scale for each output.
    """
    if len(shape) == 4:
        return Layout("conv8") if form == "int8" else None
    if len(shape) != 2 or form == "float":
        return None
    if form not in BLOCKS:
        return Layout(form)
    found = [block for block in BLOCKS[form] if shape[1] % block == 0]
    return Layout(form, found[0]) if found else Layout("int8")


def quantize(
    weight: np.ndarray, layout: Layout, importance: np.ndarray | None = None, kept: str = "float32"
) -> tuple[np.ndarray, np.ndarray]:
    """Values (KEPT_AS) and scales of layout.shapes for a float32 weight shaped as in the checkpoint.

    Symmetric, zero scales avoided; scales are numbers of the format `kept`. int8 and fp8 round to nearest. int4
    searches each block's scale for the smallest squared error; importance (inputs,) weighs the inputs, by the mean
    square of what the weight multiplies.
    """
    dtype = FORMATS[kept].dtype
    if layout.form == "conv8":
        rows = weight.reshape(len(weight), -1)
        scale = _as_kept(_scale(np.abs(rows).max(axis=1), LEVELS["conv8"]), dtype)
        return _rounded(rows, scale[:, None], layout.form).reshape(weight.shape), scale.astype(dtype)
    (inputs, outputs), scales = layout.shapes(weight.shape)
    block = layout.block or inputs
    blocks = np.ascontiguousarray(weight.T).reshape(-1, block, outputs)
    values, scale = np.empty(blocks.shape, FORMATS[KEPT_AS[layout.form]].dtype), np.empty((len(blocks), outputs), "f4")
    weights = None if importance is None else importance.reshape(-1, block, 1).astype(np.float32)
    step = max(1, PIECE // (block * outputs))
    for i in range(0, len(blocks), step):
        part = slice(i, i + step)
        found = _scales(blocks[part], layout.form, None if weights is None else weights[part])
        scale[part] = _as_kept(found, dtype)
        values[part] = _rounded(blocks[part], scale[part, None], layout.form)
    return values.reshape(inputs, outputs), scale.reshape(scales).astype(dtype)


def dequantize(values: np.ndarray, scale: np.ndarray, layout: Layout) -> np.ndarray:
    """The float32 weight, shaped as in the checkpoint, that the stored numbers stand for."""
    plain, scale = values.astype(np.float32), scale.astype(np.float32)
    if layout.form == "conv8":
        return plain * scale.reshape(-1, *[1] * (values.ndim - 1))
    if layout.block:
        scale = np.repeat(scale, layout.block, axis=0)
    return np.ascontiguousarray((plain * scale).T)


def _scales(blocks: np.ndarray, form: str, importance: np.ndarray | None) -> np.ndarray:
    """One scale for each output of each block (n, block, outputs) -> (n, outputs)."""
    largest = np.abs(blocks).max(axis=1)
    if form == "fp8":
        return _scale(largest, FP8_LARGEST)
    if form != "int4":
        return _scale(largest, LEVELS[form])
    best, error = _scale(largest, LEVELS[form]), np.full(largest.shape, np.inf, np.float32)
    for scale in _candidates(largest, form):
        rounded = np.clip(np.rint(blocks / scale[:, None]), LEAST[form], LEVELS[form])
        rounded *= scale[:, None]
        rounded -= blocks
        rounded *= rounded
        if importance is not None:
            rounded *= importance
        found = rounded.sum(axis=1)
        best, error = np.where(found < error, scale, best), np.minimum(found, error)
    return best


def _candidates(largest: np.ndarray, form: str) -> Iterator[np.ndarray]:
    for share in SEARCHED:
        yield _scale(largest * share, LEVELS[form])


def _as_kept(scale: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Scales rounded to the format they are stored in, so that values are rounded with exactly the stored scales."""
    return scale.astype(dtype).astype(np.float32)


def _scale(largest: np.ndarray, levels: float) -> np.ndarray:
    return np.where(largest > 0, largest / levels, 1).astype(np.float32)


def _rounded(weight: np.ndarray, scale: np.ndarray, form: str) -> np.ndarray:
    if form == "fp8":
        return (weight / scale).astype(FORMATS["fp8"].dtype)
    return (
        np.rint(weight / scale).clip(LEAST.get(form, -LEVELS[form]), LEVELS[form]).astype(FORMATS[KEPT_AS[form]].dtype)
    )


def packed(values: np.ndarray) -> np.ndarray:
    """The bytes of values in a file: as they are, or two 4-bit numbers in each, the first in the low half (as ONNX)."""
    if values.dtype != FORMATS["int4"].dtype:
        return np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    nibbles = values.reshape(-1).astype(np.int8).view(np.uint8) & 0xF
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return nibbles[0::2] | (nibbles[1::2] << 4)


def packed_bytes(form: str, shape: tuple[int, ...]) -> int:
    """Size of an entry of the weight file; form is a key of formats.FORMATS."""
    count = math.prod(shape)
    return -(-count // 2) if form == "int4" else count * FORMATS[form].dtype.itemsize

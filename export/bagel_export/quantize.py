"""Weight-only int8: which weights it takes, how they are rounded, and what they are worth afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bagel_export.checkpoint import VAE_PREFIX, SourceTensor
from bagel_export.formats import FORMATS
from bagel_export.precision import Precision

BLOCK = 32  # inputs of one output that share a scale
LEVELS = 127
TABLES = ("embed_tokens", "position_embedding", "pos_embed")  # gathered row by row, never multiplied
Storage = Literal["plain", "blocks", "channels"]


def storage_of(tensor: SourceTensor, precision: Precision) -> Storage:
    """How a tensor is stored: a Linear's weight in blocks along its inputs, a convolution's per output channel."""
    if not precision.int8 or not tensor.name.endswith(".weight"):
        return "plain"
    if len(tensor.shape) == 4 and tensor.name.startswith(VAE_PREFIX):
        return "channels"
    is_linear = len(tensor.shape) == 2 and tensor.name.split(".")[-2] not in TABLES
    return "blocks" if is_linear and tensor.shape[1] % BLOCK == 0 else "plain"


def stored_shapes(shape: tuple[int, ...], storage: Storage) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the int8 values and of their scales. A Linear's (out, in) is turned to (in, out)."""
    if storage == "channels":
        return shape, shape[:1]
    outputs, inputs = shape
    return (inputs, outputs), (inputs // BLOCK, outputs)


def quantize(weight: np.ndarray, storage: Storage) -> tuple[np.ndarray, np.ndarray]:
    """int8 values and float32 scales of stored_shapes; symmetric, rounded to nearest, zero scales avoided."""
    if storage == "channels":
        rows = weight.reshape(len(weight), -1)
        scale = _scale(np.abs(rows).max(axis=1))
        return _round(rows, scale[:, None]).reshape(weight.shape), scale
    blocks = np.ascontiguousarray(weight.T).reshape(-1, BLOCK, weight.shape[0])  # (blocks, BLOCK, out)
    scale = _scale(np.abs(blocks).max(axis=1))
    return _round(blocks, scale[:, None]).reshape(weight.T.shape), scale


def dequantize(values: np.ndarray, scale: np.ndarray, storage: Storage) -> np.ndarray:
    """The float32 weight, shaped as in the checkpoint, that the stored numbers stand for."""
    if storage == "channels":
        return values * scale.reshape(-1, *[1] * (values.ndim - 1))
    return np.ascontiguousarray((values * np.repeat(scale, BLOCK, axis=0)).T)


def _scale(largest: np.ndarray) -> np.ndarray:
    return np.where(largest > 0, largest / LEVELS, 1).astype(np.float32)


def _round(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.rint(weight / scale).clip(-LEVELS, LEVELS).astype(np.int8)


@dataclass(frozen=True)
class Rounded:
    """A source tensor as the artefact keeps it: what a quantised graph must compute with."""

    source: SourceTensor
    precision: Precision

    def array(self) -> np.ndarray:
        """float32, shaped as in the checkpoint."""
        weight, storage = self.source.array(), storage_of(self.source, self.precision)
        if storage == "plain":
            dtype = FORMATS[self.precision.stored(self.source.name)].dtype
            return weight.astype(dtype, copy=False).astype(np.float32, copy=False)
        return dequantize(*quantize(weight, storage), storage)

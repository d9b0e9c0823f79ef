"""A tensor that is stored packed: its shape is known from headers, its numbers are unpacked when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bagel_rt.errors import CheckpointError
from bagel_rt.files.safetensors_file import DTYPES, StoredTensor


@dataclass(frozen=True)
class PackedTensor:
    """One tensor of a packed checkpoint, unpacked a few rows at a time.

    It stands where a StoredTensor does; what differs is that its bytes are not its values.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    form: str  # for people: "fp8", "NF4", ...
    unpack: Callable[[int, int], np.ndarray]  # rows start to stop, float32, the numbers of a row in order
    dtype: str = "F32"  # the narrowest type of DTYPES that holds all its values

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def columns(self) -> int:
        """Numbers in one row, which is all behind the first dimension."""
        return math.prod(self.shape[1:])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop in float32, (stop - start, columns)."""
        return np.ascontiguousarray(self.unpack(start, stop), np.float32).reshape(stop - start, self.columns)

    def mapped(self) -> np.ndarray:
        """All values in float32; unlike a stored tensor's they are in memory."""
        return self.rows(0, self.shape[0] if self.shape else 1).reshape(self.shape)


Stored = StoredTensor | PackedTensor
Split = tuple[dict[str, StoredTensor], dict[str, PackedTensor]]  # what a form leaves to others, and what it unpacks


def without(stored: Mapping[str, StoredTensor], packed: Mapping[str, PackedTensor]) -> dict[str, StoredTensor]:
    return {key: tensor for key, tensor in stored.items() if key not in packed}


def beside(stored: Mapping[str, StoredTensor], weight: StoredTensor, key: str, what: str) -> StoredTensor:
    """The tensor `key` that a packed weight cannot be read without. Raises CheckpointError."""
    if key not in stored:
        raise CheckpointError(
            f"{weight.file}: tensor '{weight.key}' has no {what} beside it: '{key}' is missing; download or convert the"
            " file again"
        )
    return stored[key]


def wrong_shape(tensor: StoredTensor, wanted: str) -> CheckpointError:
    return CheckpointError(f"{tensor.file}: tensor '{tensor.key}' has shape {list(tensor.shape)}; {wanted} expected")


def floats(tensor: StoredTensor) -> np.ndarray:
    """Scales or a table of values in float32. Raises CheckpointError for another kind of number."""
    if tensor.dtype not in (*DTYPES, "F8_E8M0"):
        raise CheckpointError(
            f"{tensor.file}: tensor '{tensor.key}' has type {tensor.dtype}; allowed: {', '.join(DTYPES)}"
        )
    return tensor.raw().astype(np.float32)

"""Reading safetensors by offset: every tensor is mapped, none is loaded until asked for."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import ml_dtypes
import numpy as np

from bagel_engines.disk import mapped
from bagel_rt.errors import CheckpointError

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# what packed weights are kept in: bytes and whole numbers of several weights, 8-bit floats, scales that are powers of 2
PACKED_DTYPES: dict[str, np.dtype] = {
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
SIZED = DTYPES | PACKED_DTYPES
MAX_HEADER = 100_000_000  # the format's own limit
METADATA = "__metadata__"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor inside a file: where it lies and what it is."""

    file: Path
    key: str
    dtype: str  # the file's name for it: F32, BF16, ...
    shape: tuple[int, ...]
    offset: int  # from the start of the file

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def mapped(self) -> np.ndarray:
        """The values as stored, mapped from the file."""
        if self.dtype not in DTYPES:
            raise CheckpointError(
                f"{self.file}: tensor '{self.key}' has type {self.dtype}; allowed: {', '.join(DTYPES)}"
            )
        return self.raw()

    def raw(self) -> np.ndarray:
        """What is stored, mapped from the file, packed numbers included: one of the types SIZED."""
        if not self.count:
            return np.zeros(self.shape, SIZED[self.dtype])
        try:
            return mapped(self.file, SIZED[self.dtype], self.offset, self.shape)
        except OSError as error:
            raise CheckpointError(f"{self.file}: cannot be mapped into memory: {error.strerror or error}") from None


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file, checked against the file's size.

    Raises CheckpointError naming the file, and the key where one is at fault.
    """
    header, start, size = _parsed(path)
    return {k: _tensor(path, k, v, start, size) for k, v in header.items() if k != METADATA}


def read_metadata(path: Path) -> dict[str, str]:
    """The words that a safetensors file's header keeps beside its tensors. Raises CheckpointError."""
    found = _parsed(path)[0].get(METADATA)
    for key, value in found.items() if isinstance(found, dict) else ():
        if not isinstance(value, str):
            raise CheckpointError(f"{path}: its {METADATA} keeps texts alone, and '{key}' is {value!r:.80}")
    return found if isinstance(found, dict) else {}


def _parsed(path: Path) -> tuple[dict[str, Any], int, int]:
    """A file's header, where its tensors begin, and the file's size, in bytes."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                raise CheckpointError(
                    f"{path}: not a safetensors file, or cut off: a header of {length} bytes in a file of {size}"
                )
            header = json.loads(stream.read(length))
    except FileNotFoundError:
        if path.is_symlink():
            raise CheckpointError(
                f"{path}: links to {path.readlink()}, which is not there: the download is not complete"
            ) from None
        raise CheckpointError(f"{path}: file not found") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: not a safetensors file: its header is not an object")
    return header, 8 + length, size


def _tensor(path: Path, key: str, entry: object, start: int, size: int) -> StoredTensor:
    dtype, shape, begin, end = _entry(path, key, entry)
    tensor = StoredTensor(path, key, dtype, shape, start + begin)
    if dtype in SIZED and end - begin != tensor.count * SIZED[dtype].itemsize:
        raise CheckpointError(f"{path}: tensor '{key}' spans {end - begin} bytes, its shape {list(shape)} needs others")
    if end < begin or start + end > size:
        raise CheckpointError(
            f"{path}: the file is cut off: tensor '{key}' ends at byte {start + end}, the file at {size}"
        )
    return tensor


def _entry(path: Path, key: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, first byte and end of one tensor, as the header states them."""
    if isinstance(entry, dict):
        dtype, shape, place = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if isinstance(dtype, str) and _are_sizes(shape) and _are_sizes(place) and len(place) == 2:
            return dtype, tuple(shape), place[0], place[1]
    raise CheckpointError(f"{path}: tensor '{key}' has a malformed header entry: {entry!r}")


def _are_sizes(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)

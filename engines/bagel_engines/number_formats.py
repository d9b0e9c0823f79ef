"""16-bit floats in numpy arrays: bfloat16, which numpy lacks, is kept as its bits in uint16."""

from __future__ import annotations

import numpy as np

# the numpy type that arrays of a number format are kept in; uint16 holds bfloat16's bits, which the host only moves
KEPT_AS = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(np.uint16)}


def widened(kept: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values of an array kept as KEPT_AS[dtype] says; exact."""
    if dtype == "bfloat16":
        return (kept.astype(np.uint32) << 16).view(np.float32)
    return kept.astype(np.float32)


def narrowed(values: np.ndarray, dtype: str) -> np.ndarray:
    """Finite float32 numbers kept as KEPT_AS[dtype] says, rounded to nearest even; any other type as it is."""
    if dtype not in KEPT_AS:
        return values
    if dtype != "bfloat16":
        return values.astype(KEPT_AS[dtype], copy=False)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16).astype(np.uint16)

"""Number formats that numpy has no name for, as arrays the host can keep and hand on."""

from __future__ import annotations

import numpy as np

# bfloat16 is kept as its bits: the host stores and moves it, and never computes with it
KEPT_AS = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(np.uint16)}


def widened(kept: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values of an array kept as KEPT_AS[dtype] says; exact."""
    if dtype == "bfloat16":
        return (kept.astype(np.uint32) << 16).view(np.float32)
    return kept.astype(np.float32)

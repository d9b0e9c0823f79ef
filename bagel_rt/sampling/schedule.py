"""The times a picture is denoised at (rectified flow), equal to the last bit to those of torch in the official code."""

from __future__ import annotations

import numpy as np


def linspace_down(points: int) -> np.ndarray:
    """torch.linspace(1, 0, points) in float32: torch counts from both ends and rounds each value once; so does this."""
    step = np.float64(np.float32(-1.0) / np.float32(points - 1))
    index = np.arange(points)
    ascending, descending = 1.0 + step * index, -step * (points - 1 - index)
    return np.where(index < points // 2, ascending, descending).astype(np.float32)


def timesteps(num_timesteps: int, shift: float) -> np.ndarray:
    """num_timesteps float32 points from 1 (noise) to 0 (clean): t = shift * s / (1 + (shift - 1) * s)."""
    s = linspace_down(num_timesteps)
    return np.float32(shift) * s / (np.float32(1.0) + np.float32(shift - 1.0) * s)

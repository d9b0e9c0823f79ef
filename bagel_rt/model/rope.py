"""Rotary position tables, computed on the host (contract: *_cos, *_sin)."""

from __future__ import annotations

import numpy as np

from bagel_rt.artefact.contract import ModelDims


class Rope:
    """cos and sin (rows, head_dim) float32 for position ids; float32 angles as in the official code."""

    def __init__(self, model: ModelDims):
        exponents = np.arange(0, model.head_dim, 2, dtype=np.float32) / np.float32(model.head_dim)
        self._inverse = np.float32(1.0) / np.power(np.float32(model.rope_theta), exponents)

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One row per position."""
        half = positions.astype(np.float32)[:, None] * self._inverse[None]
        angles = np.concatenate([half, half], axis=1)
        return np.cos(angles), np.sin(angles)

    def constant(self, position: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """The same position for every row, as inside an image."""
        cos, sin = self.at(np.array([position]))
        return np.repeat(cos, rows, axis=0), np.repeat(sin, rows, axis=0)

"""The product of two thin matrices that a LoRA adapter adds to one of the model's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bagel_rt.files.safetensors_file import StoredTensor

PIECE = 1 << 24  # numbers converted at once


@dataclass(frozen=True)
class LowRank:
    """A LoRA update of a matrix: scale * left @ right, computed a few rows at a time.

    A Linear's lora_B (out, r) and lora_A (r, in) are left and right as stored; an embedding's are stored transposed.
    """

    left: StoredTensor
    right: StoredTensor
    scale: float
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        if self.transposed:
            return self.left.shape[1], self.right.shape[0]
        return self.left.shape[0], self.right.shape[1]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop of the update, float32 (stop - start, columns)."""
        left, right = self.left.mapped(), self.right.mapped()
        if self.transposed:
            left, right = left.T, right.T
        return np.float32(self.scale) * (left[start:stop].astype(np.float32) @ right.astype(np.float32))

"""Latents between a picture and noise, and pictures of which a part stays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def noised(clean: np.ndarray, noise: np.ndarray, t: np.float32) -> np.ndarray:
    """Where the straight path from noise (t = 1) to clean latents (t = 0) is at t."""
    return (np.float32(1.0) - t) * clean + t * noise


def first_step(steps: int, strength: float) -> int:
    """The step, counted from 0, at which a picture begins that goes through the share `strength` of its steps: at least
    through the last one."""
    return steps - max(1, round(steps * strength))


@dataclass(frozen=True)
class Kept:
    """Latents that stay those of another picture: after every step they are put where its own path is at that time.

    clean, noise: (n, 64) of that picture; drawn: (n,) booleans, the latents that are the model's to change.
    """

    clean: np.ndarray
    noise: np.ndarray
    drawn: np.ndarray

    def restored(self, x: np.ndarray, t: np.float32) -> np.ndarray:
        """x (n, 64) at t, with the kept latents put back."""
        return np.where(self.drawn[:, None], x, noised(self.clean, self.noise, t))

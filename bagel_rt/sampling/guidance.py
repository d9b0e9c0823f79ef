"""Classifier-free guidance over text and image: when it acts, and the official code's three renormalisations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RENORM_TYPES = ("global", "channel", "text_channel")


@dataclass(frozen=True)
class Guidance:
    """The guidance options of a picture (see ImageOptions) as functions of time."""

    cfg_text_scale: float
    cfg_img_scale: float
    cfg_interval: tuple[float, float]
    cfg_renorm_min: float
    cfg_renorm_type: str

    def scales(self, t: np.float32) -> tuple[float, float]:
        """(text, image) scales at shifted time t: guidance acts for lo < t <= hi, compared in float32."""
        lo, hi = (np.float32(bound) for bound in self.cfg_interval)
        return (self.cfg_text_scale, self.cfg_img_scale) if lo < t <= hi else (1.0, 1.0)

    def branches(self, t: np.float32) -> tuple[str, ...]:
        """The branches whose velocity matters at t. Without text guidance image guidance has no effect."""
        text, image = self.scales(t)
        if text <= 1.0:
            return ("cond",)
        return ("cond", "cfg_text", "cfg_img") if image > 1.0 else ("cond", "cfg_text")

    def combine(self, v: dict[str, np.ndarray], t: np.float32) -> np.ndarray:
        """One velocity (n, 64) from those of branches(t)."""
        cond = v["cond"]
        text, image = self.scales(t)
        if "cfg_text" not in v:
            return cond
        guided = _extrapolate(v["cfg_text"], cond, text)
        if self.cfg_renorm_type == "text_channel":
            guided = guided * self._renorm(cond, guided, axis=-1)
            return _extrapolate(v["cfg_img"], guided, image) if "cfg_img" in v else guided
        if "cfg_img" in v:
            guided = _extrapolate(v["cfg_img"], guided, image)
        return guided * self._renorm(cond, guided, axis=-1 if self.cfg_renorm_type == "channel" else None)

    def _renorm(self, reference: np.ndarray, guided: np.ndarray, axis: int | None) -> np.ndarray:
        """Factors that bring `guided` back to the reference's norm where it is longer: clamp(|reference| / |guided|,
        cfg_renorm_min, 1). axis None: one norm over all numbers; -1: one for each token."""
        ratio = _norm(reference, axis) / (_norm(guided, axis) + np.float32(1e-8))
        return np.clip(ratio, np.float32(self.cfg_renorm_min), np.float32(1.0))


def _extrapolate(base: np.ndarray, towards: np.ndarray, scale: float) -> np.ndarray:
    return base + np.float32(scale) * (towards - base)


def _norm(x: np.ndarray, axis: int | None) -> np.ndarray:
    norm = np.sqrt(np.sum(np.square(x), axis=axis, keepdims=True, dtype=np.float32))
    return np.where(np.isinf(norm), np.float32(np.nan), norm)  # dividing by infinity would end all movement unseen

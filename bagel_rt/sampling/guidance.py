"""Classifier-free guidance over text and image: when it acts, how text's is made, and the official code's three
renormalisations.

Text guidance is plain extrapolation ("cfg", the official code's) or another rule:

* "cfg_zero_star": CFG-Zero* (Fan et al. 2025, arXiv 2503.18886): the unguided velocity is scaled first, to lie nearest
  to the conditional one.
* "apg": adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416): of the difference between the two clean
  estimates the part along the conditional one, which makes colours garish, is weakened, and its length bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RENORM_TYPES = ("global", "channel", "text_channel")
RULES = ("cfg", "cfg_zero_star", "apg")


@dataclass(frozen=True)
class Projection:
    """Settings of "apg". eta: the share kept of the part along the conditional estimate; momentum: of the last step's
    difference, added to this one's (the authors advise a negative one); norm_threshold: the longest difference, 0 for
    any."""

    eta: float = 0.0
    momentum: float = -0.5
    norm_threshold: float = 0.0


@dataclass(frozen=True)
class Guidance:
    """The guidance options of a picture (see ImageOptions) as functions of time."""

    cfg_text_scale: float
    cfg_img_scale: float
    cfg_interval: tuple[float, float]
    cfg_renorm_min: float
    cfg_renorm_type: str
    cfg_rule: str = "cfg"
    projection: Projection = Projection()

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

    def combine(
        self, v: dict[str, np.ndarray], t: np.float32, x: np.ndarray | None = None, past: Momentum | None = None
    ) -> np.ndarray:
        """One velocity (n, 64) from those of branches(t). "apg" needs the latent x (n, 64) and the picture's past."""
        cond = v["cond"]
        text, image = self.scales(t)
        if "cfg_text" not in v:
            return cond
        guided = self._by_text(cond, v["cfg_text"], text, t, x, past)
        if self.cfg_renorm_type == "text_channel":
            guided = guided * self._renorm(cond, guided, axis=-1)
            return _extrapolate(v["cfg_img"], guided, image) if "cfg_img" in v else guided
        if "cfg_img" in v:
            guided = _extrapolate(v["cfg_img"], guided, image)
        return guided * self._renorm(cond, guided, axis=-1 if self.cfg_renorm_type == "channel" else None)

    def _by_text(self, cond, without, scale: float, t: np.float32, x, past) -> np.ndarray:
        if self.cfg_rule == "apg":
            step = past.with_added(t * (without - cond), self.projection.momentum)  # clean estimates are x - t * v
            step = _bounded(step, self.projection.norm_threshold)
            return cond - (np.float32(scale - 1) / t) * _weakened(step, x - t * cond, self.projection.eta)
        if self.cfg_rule == "cfg_zero_star":
            without = without * _nearest_share(without, cond)
        return _extrapolate(without, cond, scale)

    def _renorm(self, reference: np.ndarray, guided: np.ndarray, axis: int | None) -> np.ndarray:
        """Factors that bring `guided` back to the reference's norm where it is longer: clamp(|reference| / |guided|,
        cfg_renorm_min, 1). axis None: one norm over all numbers; -1: one for each token."""
        ratio = _norm(reference, axis) / (_norm(guided, axis) + np.float32(1e-8))
        return np.clip(ratio, np.float32(self.cfg_renorm_min), np.float32(1.0))


class Momentum:
    """What "apg" remembers of a picture from step to step."""

    def __init__(self) -> None:
        self._difference: np.ndarray | None = None

    def with_added(self, difference: np.ndarray, momentum: float) -> np.ndarray:
        """The difference plus the share `momentum` of the last one that was returned."""
        if self._difference is not None and momentum:
            difference = difference + np.float32(momentum) * self._difference
        self._difference = difference
        return difference


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine of the angle between two velocities, over all numbers; 0 where one is 0."""
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.vdot(a, b)) / lengths if lengths > 0 else 0.0


def _nearest_share(v: np.ndarray, to: np.ndarray) -> np.float32:
    """The s for which s * v lies nearest to `to`."""
    return np.float32(np.vdot(v, to) / (np.vdot(v, v) + 1e-8))


def _bounded(step: np.ndarray, longest: float) -> np.ndarray:
    length = float(np.linalg.norm(step))
    return step * np.float32(longest / length) if 0 < longest < length else step


def _weakened(step: np.ndarray, along: np.ndarray, eta: float) -> np.ndarray:
    """The step with only the share eta of its part along a direction."""
    parallel = along * _nearest_share(along, step)
    return step + np.float32(eta - 1) * parallel


def _extrapolate(base: np.ndarray, towards: np.ndarray, scale: float) -> np.ndarray:
    return base + np.float32(scale) * (towards - base)


def _norm(x: np.ndarray, axis: int | None) -> np.ndarray:
    norm = np.sqrt(np.sum(np.square(x), axis=axis, keepdims=True, dtype=np.float32))
    return np.where(np.isinf(norm), np.float32(np.nan), norm)  # dividing by infinity would end all movement unseen

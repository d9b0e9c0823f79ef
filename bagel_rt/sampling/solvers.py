"""Ways to integrate the flow from noise (t = 1) to a picture (t = 0), a step from one time to the next at a time.

x is the latent (n, 64) at t; a velocity v says that the clean latent is probably d = x - t * v. Euler is the official
code's. The two multistep methods compute in the logarithm of the ratio of picture to noise, l = log((1 - t) / t), which
is infinite at both ends: there they take the step that its limit gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# called with a latent and its time; what the model, guided, says of it
Velocity = Callable[[np.ndarray, np.float32], np.ndarray]


class Solver(Protocol):
    """One picture's integration. evaluations: of the model in a step that does not end at 0."""

    evaluations: int

    def advance(self, x: np.ndarray, t: np.float32, after: np.float32, velocity: Velocity) -> np.ndarray:
        """The latent at `after`, from the one at t > after."""
        ...


class Euler:
    """x - v * (t - after): first order, one evaluation."""

    evaluations = 1

    def advance(self, x: np.ndarray, t: np.float32, after: np.float32, velocity: Velocity) -> np.ndarray:
        return x - velocity(x, t) * (t - after)


class Heun:
    """The mean of the velocities at both ends of Euler's step: second order, two evaluations. The last step is Euler's,
    because at 0 nothing is left to be said about noise."""

    evaluations = 2

    def advance(self, x: np.ndarray, t: np.float32, after: np.float32, velocity: Velocity) -> np.ndarray:
        first = velocity(x, t)
        there = x - first * (t - after)
        if after == 0:
            return there
        return x - (first + velocity(there, after)) * ((t - after) / np.float32(2.0))


class DpmPlusPlus2M:
    """DPM-Solver++ (2M) for flows (Lu et al. 2022, arXiv 2211.01095, algorithm 2): the clean latent is extrapolated
    from this step and the one before."""

    evaluations = 1

    def __init__(self) -> None:
        self._clean: np.ndarray | None = None
        self._width = math.inf  # of the step before, in l

    def advance(self, x: np.ndarray, t: np.float32, after: np.float32, velocity: Velocity) -> np.ndarray:
        clean, width = x - t * velocity(x, t), _width(t, after)
        towards = clean
        if self._clean is not None and math.isfinite(self._width) and math.isfinite(width):
            towards = clean + np.float32(width / (2 * self._width)) * (clean - self._clean)
        self._clean, self._width = clean, width
        return _first_order(x, towards, t, after)


@dataclass(frozen=True)
class _Seen:
    """A point of the integration: the latent there as it was used, its clean estimate and its time."""

    x: np.ndarray
    clean: np.ndarray
    t: np.float32


class UniPC:
    """UniPC of second order, bh2 (Zhao et al. 2023, arXiv 2302.04867), for flows: each step is predicted, and corrected
    by the velocity that is found there. The correction costs no evaluation."""

    evaluations = 1

    def __init__(self) -> None:
        self._seen: list[_Seen] = []  # at most two, the latest last

    def advance(self, x: np.ndarray, t: np.float32, after: np.float32, velocity: Velocity) -> np.ndarray:
        clean = x - t * velocity(x, t)
        if self._seen:
            x = self._corrected(clean, t)
        self._seen = [*self._seen[-1:], _Seen(x, clean, t)]
        return self._predicted(after)

    def _predicted(self, after: np.float32) -> np.ndarray:
        here = self._seen[-1]
        out, width = _first_order(here.x, here.clean, here.t, after), _width(here.t, after)
        if len(self._seen) < 2 or not math.isfinite(width) or not math.isfinite(self._before()):
            return out
        slope = (self._seen[0].clean - here.clean) * np.float32(-width / self._before())
        return out - np.float32((1 - after) * math.expm1(-width) * 0.5) * slope

    def _corrected(self, clean: np.ndarray, t: np.float32) -> np.ndarray:
        """The latent at t, where `clean` was found: its step taken again with that knowledge."""
        start = self._seen[-1]
        width = _width(start.t, t)
        change = clean - start.clean
        if len(self._seen) < 2 or not math.isfinite(width) or not math.isfinite(self._before()):
            found = np.float32(0.5) * change
        else:
            ratio = -self._before() / width
            past, now = _corrector_weights(-width, ratio)
            found = np.float32(past / ratio) * (self._seen[0].clean - start.clean) + np.float32(now) * change
        return _first_order(start.x, start.clean, start.t, t) - np.float32((1 - t) * math.expm1(-width)) * found

    def _before(self) -> float:
        """The width of the step between the two points seen."""
        return _width(self._seen[0].t, self._seen[1].t)


def _corrector_weights(h: float, ratio: float) -> tuple[float, float]:
    """Weights of the differences to the point before and to the point found, for bh2 (h: minus the step's width)."""
    grown = math.expm1(h)
    first = grown / h - 1
    second = first / h - 0.5
    sums = (first / grown, 2 * second / grown)
    now = (sums[1] - ratio * sums[0]) / (1 - ratio)
    return sums[0] - now, now


def _first_order(x: np.ndarray, clean: np.ndarray, t: np.float32, after: np.float32) -> np.ndarray:
    """The latent at `after` if the clean latent stays what it is; the same as Euler's step."""
    ratio = after / t
    return ratio * x + (np.float32(1.0) - ratio) * clean


def _width(t: np.float32, after: np.float32) -> float:
    """How far l moves from t to `after`; infinite from 1 and to 0."""
    return math.inf if t >= 1 or after <= 0 else math.log((1 - after) / after) - math.log((1 - t) / t)


SOLVERS: dict[str, Callable[[], Solver]] = {"euler": Euler, "heun": Heun, "dpm++2m": DpmPlusPlus2M, "unipc": UniPC}

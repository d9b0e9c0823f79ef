"""Step caches on velocities: some steps forecast the model's velocity (n, 64) instead of evaluating it.

A velocity has 64 numbers where a row of the last layer has thousands, so these keep megabytes for a picture. All
branches of a picture are evaluated at the same steps, so equal contexts share what is remembered. Which steps, a mask
says, or the schedule of TaylorSeer, or the picture's own movement (EasyCache).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bagel_rt.sampling.step_cache import on_schedule

WARM_STEPS = 5  # of EasyCache, always evaluated; its authors take 5 to 10 of 50


class Forecast(Protocol):
    """What is remembered of one context's velocities. numbers: how many float32 are kept."""

    def learn(self, step: int, t: np.float32, x: np.ndarray, v: np.ndarray) -> None:
        """Remember the velocity found for latents x at t, in the step number `step`."""
        ...

    def at(self, step: int, t: np.float32, x: np.ndarray) -> np.ndarray:
        """The velocity to be expected there."""
        ...


class Offset:
    """v - x stays what it was: EasyCache's transformation vector (Zhou et al. 2025, arXiv 2507.02860)."""

    def learn(self, step: int, t: np.float32, x: np.ndarray, v: np.ndarray) -> None:
        self._offset = v - x

    def at(self, step: int, t: np.float32, x: np.ndarray) -> np.ndarray:
        return x + self._offset


class Polynomial:
    """Through the last velocities, as a polynomial in t of second degree at most (TaylorSeer's idea, on velocities and
    with the schedule's true distances)."""

    POINTS = 3

    def __init__(self) -> None:
        self._points: list[tuple[np.float32, np.ndarray]] = []

    def learn(self, step: int, t: np.float32, x: np.ndarray, v: np.ndarray) -> None:
        self._points = [*self._points[1 - self.POINTS :], (t, v)]

    def at(self, step: int, t: np.float32, x: np.ndarray) -> np.ndarray:
        times = [float(time) for time, _ in self._points]
        return sum(
            (np.float32(_lagrange(times, i, float(t))) * v for i, (_, v) in enumerate(self._points)),
            start=np.float32(0),
        )  # type: ignore[return-value]


class Exponential:
    """A sum of exponentials in the number of steps, fitted to the last evenly spaced velocities: dynamic mode
    decomposition (Schmid 2010), as cache-dit's "dmd" forecasts with it. Too few of them: a polynomial."""

    POINTS, LEAST = 6, 4
    NOISE = 1e-4  # parts of a singular value below this share of the largest are not fitted

    def __init__(self) -> None:
        self._polynomial, self._velocities, self._calls = Polynomial(), [], []  # type: ignore[var-annotated]

    def learn(self, step: int, t: np.float32, x: np.ndarray, v: np.ndarray) -> None:
        self._polynomial.learn(step, t, x, v)
        self._velocities = [*self._velocities[1 - self.POINTS :], v]
        self._calls = [*self._calls[1 - self.POINTS :], step]

    def at(self, step: int, t: np.float32, x: np.ndarray) -> np.ndarray:
        even = _even_tail(self._calls)
        if even < self.LEAST:
            return self._polynomial.at(step, t, x)
        spacing = self._calls[-1] - self._calls[-2]
        ahead = (step - self._calls[-1]) / spacing
        found = _continued(np.stack([v.ravel() for v in self._velocities[-even:]], 1), ahead, self.NOISE)
        return self._velocities[-1] if found is None else found.reshape(x.shape)


FORECASTS: dict[str, Callable[[], Forecast]] = {
    "easycache": Offset,
    "polynomial": Polynomial,
    "exponential": Exponential,
}


@dataclass
class Movement:
    """EasyCache's rule: evaluate once the output is expected to have changed by `threshold` of its length since the
    last evaluation. The rate of change of output by input is the one last seen."""

    threshold: float
    _rate = 0.0
    _changed = 0.0
    _x: np.ndarray | None = None
    _v: np.ndarray | None = None

    def is_still(self, x: np.ndarray) -> bool:
        """Whether the velocity at x may be forecast."""
        if self._x is None or self._v is None:
            return False
        length = _norm(self._v)
        self._changed += self._rate * _norm(x - self._x) / length if length else math.inf
        return self._changed < self.threshold

    def note(self, x: np.ndarray, v: np.ndarray, evaluated: bool) -> None:
        """The velocity that was used at x."""
        if evaluated:
            self._changed = 0.0
            if self._x is not None and self._v is not None and (moved := _norm(x - self._x)):
                self._rate = _norm(v - self._v) / moved
        self._x, self._v = x, v


class VelocityCache:
    """The cache of one picture. steps: how many it is drawn in; mask: a 1 for each that is evaluated, else 0."""

    def __init__(self, kind: str, steps: int, mask: str | None, threshold: float):
        self._make, self._steps, self._mask = FORECASTS[kind], steps, mask
        self._movement = Movement(threshold) if kind == "easycache" and mask is None else None
        self._known: dict[Hashable, Forecast] = {}
        self._step, self._evaluates = -1, True
        self.evaluated: list[int] = []  # the steps at which the model was asked

    def begin(self, step: int, x: np.ndarray) -> None:
        """A step begins, with latents x: decide whether the model is asked."""
        self._step = step
        self._evaluates = self._decide(step, x)
        if self._evaluates:
            self.evaluated.append(step)

    def velocity(
        self, context: Hashable, t: np.float32, x: np.ndarray, evaluate: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """The velocity of a context in this step. One that was never evaluated is evaluated now."""
        known = self._known.get(context)
        asked = self._evaluates or known is None
        if known is None:
            known = self._known[context] = self._make()
        v = evaluate() if asked else known.at(self._step, t, x)
        if asked:
            known.learn(self._step, t, x, v)
        return v

    def end(self, x: np.ndarray, cond: np.ndarray) -> None:
        """The step's conditional velocity, by which the next step is judged."""
        if self._movement is not None:
            self._movement.note(x, cond, self._evaluates)

    def _decide(self, step: int, x: np.ndarray) -> bool:
        if self._mask is not None:
            return self._mask[step] == "1"
        if self._movement is None:
            return on_schedule(step)
        still = self._movement.is_still(x)  # counted in warm steps, too
        return step < WARM_STEPS or step == self._steps - 1 or not still


def _lagrange(times: list[float], which: int, t: float) -> float:
    """The weight of the point `which` in the polynomial through all of them."""
    return math.prod((t - other) / (times[which] - other) for i, other in enumerate(times) if i != which)


def _even_tail(calls: list[int]) -> int:
    """How many of the last calls are equally far from each other."""
    distances = np.diff(calls)
    count = 1
    while count <= len(distances) and distances[-count] == distances[-1]:
        count += 1
    return count


def _continued(seen: np.ndarray, ahead: float, noise: float) -> np.ndarray | None:
    """Columns (numbers, points) as powers of a linear map, continued by `ahead` points; None where that is not finite.

    The map is fitted in the space of the columns themselves, by their Gram matrix: as many rows as there are points.
    """
    before, after = seen[:, :-1].astype(np.float64), seen[:, 1:].astype(np.float64)
    squares, modes = np.linalg.eigh(before.T @ before)
    kept = squares > max(squares[-1], 0.0) * noise * noise
    if not kept.any():
        return None
    right = modes[:, kept] / np.sqrt(squares[kept])  # before @ right has orthonormal columns
    small = right.T @ (before.T @ after) @ right
    values, vectors = np.linalg.eig(small)
    newest = right.T @ (before.T @ after[:, -1])
    try:
        weights = np.linalg.solve(vectors, newest.astype(complex))
    except np.linalg.LinAlgError:
        return None
    with np.errstate(all="ignore"):
        moved = (vectors @ (values.astype(complex) ** ahead * weights)).real - newest
        out = (seen[:, -1] + before @ (right @ moved)).astype(np.float32)  # what the map does not reach stays
    return out if np.isfinite(out).all() else None


def _norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(x))

"""TaylorSeer step caching: some steps forecast the last layer's rows instead of evaluating the model.

Denoising steps change slowly, so their results can be extrapolated by finite differences (a Taylor series). The
official code extrapolates every layer's output by itself; then only the last layer's forecast reaches the result, so it
is enough, and exact, to keep the differences of the last layer's rows. The caches of velocity_cache.py keep less.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bagel_engines import Sums, Tensor

TAYLORSEER = "taylorseer"  # its value of the option step_cache

WARM_STEPS = 5  # steps 0 to 4 are always evaluated
INTERVAL = 3  # then every third
MAX_ORDER = 6


def on_schedule(step: int) -> bool:
    """Whether TaylorSeer's schedule evaluates the step (counted from 0)."""
    return step < WARM_STEPS or (step - WARM_STEPS + 1) % INTERVAL == 0


class TaylorSeer:
    """The step cache of one guidance branch, which counts its own calls. It lives as long as one picture is drawn.

    Rows stay on the engine's device, where `sums` computes with them.
    """

    def __init__(self, sums: Sums | None = None) -> None:
        self.calls, self._sums = 0, sums or Sums()
        self._last_full = 0
        self._factors: list[Tensor] = []

    def step(self, evaluate: Callable[[], Tensor]) -> Tensor:
        """The rows (n, hidden) of this call: evaluated, or extrapolated from earlier evaluations."""
        call = self.calls
        self.calls += 1
        if on_schedule(call):
            rows = evaluate()
            self._learn(call, rows)
            return rows
        return self._forecast(call - self._last_full)

    def fork(self) -> TaylorSeer:
        """A copy for another branch that was evaluated at the same steps. Factors are never changed in place, so both
        share them."""
        twin = TaylorSeer(self._sums)
        twin.__dict__.update(self.__dict__)
        return twin

    def _learn(self, call: int, rows: Tensor) -> None:
        factors, distance = [rows], np.float32(call - self._last_full)
        if call >= WARM_STEPS - 1:  # differences are taken from the last warm step on
            for previous in self._factors[:MAX_ORDER]:
                factors.append(self._sums.slope(factors[-1], previous, distance))
        self._factors, self._last_full = factors, call

    def _forecast(self, distance: int) -> Tensor:
        out = self._factors[0]
        for order, factor in enumerate(self._factors[1:], start=1):
            out = self._sums.plus(out, np.float32(distance**order / math.factorial(order)), factor)
        return out

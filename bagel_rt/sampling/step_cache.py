"""TaylorSeer step caching: some steps forecast the last layer's rows instead of evaluating the model.

The official code forecasts every layer's output by itself, so only the last layer's rows reach the result: keeping
their differences alone is exact (bagel-spec section 12).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bagel_engines import Sums, Tensor

WARM_STEPS = 5  # steps 0 to 4 are always evaluated
INTERVAL = 3  # then every third
MAX_ORDER = 6


class TaylorSeer:
    """The forecast of one guidance branch, which counts its own calls. Lives as long as one picture is drawn.

    Rows stay where the engine holds them; `sums` computes there.
    """

    def __init__(self, sums: Sums | None = None) -> None:
        self.calls, self._sums = 0, sums or Sums()
        self._forecasts_since = 0
        self._last_full = 0
        self._factors: list[Tensor] = []

    def step(self, evaluate: Callable[[], Tensor]) -> Tensor:
        """Rows (n, hidden) of this call: evaluated, or forecast from the evaluated ones."""
        call = self.calls
        self.calls += 1
        if call < WARM_STEPS or self._forecasts_since == INTERVAL - 1:
            rows = evaluate()
            self._learn(call, rows)
            return rows
        self._forecasts_since += 1
        return self._forecast(call - self._last_full)

    def fork(self) -> TaylorSeer:
        """Another branch that has had the same calls. The factors are shared: they are replaced, never changed."""
        twin = TaylorSeer(self._sums)
        twin.__dict__.update(self.__dict__)
        return twin

    def _learn(self, call: int, rows: Tensor) -> None:
        factors, distance = [rows], np.float32(call - self._last_full)
        if call >= WARM_STEPS - 1:  # differences are taken from the last warm step on
            for previous in self._factors[:MAX_ORDER]:
                factors.append(self._sums.slope(factors[-1], previous, distance))
        self._factors, self._last_full, self._forecasts_since = factors, call, 0

    def _forecast(self, distance: int) -> Tensor:
        out = self._factors[0]
        for order, factor in enumerate(self._factors[1:], start=1):
            out = self._sums.plus(out, np.float32(distance**order / math.factorial(order)), factor)
        return out

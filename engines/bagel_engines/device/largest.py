"""The largest number of each row of an engine's result, found where the rows lie.

Of a token's logits, 608 KB at the released size, 8 bytes come to the host. A small ONNX graph (graphs/largest.onnx) on
the same engine finds them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bagel_engines.device.arrays import fetched
from bagel_engines.device.linear_sums import GRAPHS
from bagel_engines.protocol import Engine, Held, Runner, Tensor

LARGEST = GRAPHS / "largest.onnx"
ROWS, FOUND = "rows", "found"  # its input and its output: column and sum in one array, which is one copy


@dataclass(frozen=True)
class Places:
    """Of rows (n, width): at which column the largest number is, the first where there are several, int64 (n,); and the
    sum of all, float32 (n,), which is finite where all of them are."""

    columns: np.ndarray
    sums: np.ndarray

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, rows: slice) -> Places:
        return Places(self.columns[rows], self.sums[rows])


class Largest:
    """Loads its graph when it is first needed."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._runner: Runner | None = None

    def __call__(self, rows: Held) -> Places:
        """rows: float32 (n, width), narrower than 2**24, up to which float32 counts."""
        return places(fetched([self.found(rows)])[0])

    def found(self, rows: Held) -> Tensor:
        """The graph's result, left where the rows lie."""
        if self._runner is None:
            self._runner = self._engine.load(LARGEST)
        return self._runner.run({ROWS: rows}, (FOUND,), (FOUND,))[FOUND]


def places(found: np.ndarray) -> Places:
    """Of the graph's result (n, 2)."""
    return Places(found[:, 0].astype(np.int64), found[:, 1])

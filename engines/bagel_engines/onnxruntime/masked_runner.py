"""A step graph on CUDA, where attention is fast only for masks of certain kinds: a session for each kind, by need.

CAUSAL is text (a row sees the past, the rows before it and itself), ALL is pictures (every row sees everything); a mask
of one row that sees everything is both. OTHER is a graph that reads the mask, as texts of several callers in one call
need it. DRAW is ALL once more, without what is kept of a call and a denoising step drops; MANY too, for calls with so
many rows that other products pay (float8_products.py). The first session is opened with the graph, the others when a
call of their kind comes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np

from bagel_engines.onnxruntime.float8_products import GEN
from bagel_engines.protocol import Runner, Tensors

MASK = "mask"
CAUSAL, ALL, OTHER = "causal", "all", "other"
DRAW, MANY, MANY_DRAW = "draw", "many", "many draw"
DRAWN = ("gen_out",)  # what a denoising step asks for
MANY_ROWS = 1024


def kinds_of(mask: np.ndarray) -> tuple[str, ...]:
    """The kinds a mask (rows, keys) is of, bool, True where a row may look: never none."""
    rows, keys = mask.shape
    found = []
    if keys >= rows and np.array_equal(mask, np.tri(rows, keys, keys - rows, dtype=bool)):
        found.append(CAUSAL)
    if mask.all():
        found.append(ALL)
    return (*found, OTHER)


class MaskedRunner:
    def __init__(self, first: str, possible: Sequence[str], opened: Callable[[str], Runner], kinds: Callable):
        """first: the kind to open now. possible: kinds there is a graph for. opened: opens one. kinds: those of a
        mask that is given to `run`."""
        self._possible, self._opened, self._kinds = possible, opened, kinds
        self._runners = {first: opened(first)}
        self.inputs = (*self._runners[first].inputs, MASK)
        self.outputs = self._runners[first].outputs

    def run(self, inputs: Tensors, outputs: Sequence[str], held: Container[str] = ()) -> dict[str, Any]:
        kind = self._kind(inputs, tuple(outputs))
        given = inputs if kind == OTHER else {name: tensor for name, tensor in inputs.items() if name != MASK}
        return self.of_kind(kind).run(given, outputs, held)

    def _kind(self, inputs: Tensors, outputs: tuple[str, ...]) -> str:
        kinds = [kind for kind in self._kinds(inputs[MASK]) if kind in (*self._possible, OTHER)]
        many = MANY in self._possible and inputs[GEN].shape[0] >= MANY_ROWS
        draws = DRAW in self._possible and outputs == DRAWN
        if ALL in kinds and (many or draws):
            return (MANY_DRAW if draws else MANY) if many else DRAW
        return next((kind for kind in kinds[:-1] if kind in self._runners), kinds[0])

    def of_kind(self, kind: str) -> Runner:
        """The session for masks of a kind, opened where it is not yet."""
        if kind not in self._runners:
            self._runners[kind] = self._opened(kind)
        return self._runners[kind]

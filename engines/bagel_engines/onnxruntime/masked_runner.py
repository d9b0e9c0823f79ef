"""A step graph on CUDA, where attention is fast only for masks of certain kinds: a session for each kind, by need.

CAUSAL is text (a row sees the past, the rows before it and itself), ALL is pictures (every row sees everything); a mask
of one row that sees everything is both. OTHER is the portable graph, which reads the mask; no request of the runtime
needs it. The first session is opened with the graph, the others when a mask of their kind comes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np

from bagel_engines.protocol import Runner, Tensors

MASK = "mask"
CAUSAL, ALL, OTHER = "causal", "all", "other"


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
        kinds = [kind for kind in self._kinds(inputs[MASK]) if kind in (*self._possible, OTHER)]
        kind = next((kind for kind in kinds[:-1] if kind in self._runners), kinds[0])
        given = inputs if kind == OTHER else {name: tensor for name, tensor in inputs.items() if name != MASK}
        return self.of_kind(kind).run(given, outputs, held)

    def of_kind(self, kind: str) -> Runner:
        """The session for masks of a kind, opened where it is not yet."""
        if kind not in self._runners:
            self._runners[kind] = self._opened(kind)
        return self._runners[kind]

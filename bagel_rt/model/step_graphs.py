"""Calls of the two step graphs: rows in, rows and new keys and values out."""

from __future__ import annotations

from typing import Any

import numpy as np

from bagel_engines import Tensor
from bagel_rt.artefact import contract
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.kv_cache.page_pool import PagePool
from bagel_rt.kv_cache.page_table import Sequence
from bagel_rt.model.graphs import Graphs
from bagel_rt.model.rope import Rope

RopePair = tuple[np.ndarray, np.ndarray]


def causal_mask(past: int, rows: int) -> np.ndarray:
    """(rows, past + rows): each row sees the past, the rows before it and itself."""
    return np.tri(rows, past + rows, past, dtype=bool)


class Experts:
    """The decoder stack. `und` rows and `gen` rows are (n, hidden); results are rows before the final norms."""

    def __init__(self, manifest: Manifest, graphs: Graphs, markers: np.ndarray):
        model = manifest.model
        self._graphs, self._markers = graphs, markers
        self.rope = Rope(model)
        # one weight-holding graph instead of two where the engine can run it without latents
        self._und_through_gen = manifest.task == "full" and graphs.engine.takes_zero_rows
        self._no_rows = np.zeros((0, model.hidden_size), np.float32)
        self._no_rope = np.zeros((0, model.head_dim), np.float32)

    def und(
        self, rows: np.ndarray, rope: RopePair, pool: PagePool, past: Sequence, mask: np.ndarray
    ) -> tuple[np.ndarray, Tensor]:
        """Understanding rows over a context -> (rows, new_kv); new_kv may stay with the engine."""
        return self._und(("und_out", "new_kv"), rows, rope, pool, past, mask)

    def und_kv(self, rows: np.ndarray, rope: RopePair, pool: PagePool, past: Sequence, mask: np.ndarray) -> Tensor:
        """`und` where only what enters the context is wanted."""
        return self._und(("new_kv",), rows, rope, pool, past, mask)[0]

    def _und(self, outputs: tuple[str, ...], rows, rope, pool, past, mask) -> tuple[Any, ...]:
        given = {"und": rows, "und_cos": rope[0], "und_sin": rope[1]}
        given |= {"pool": pool.tensor, "slots": pool.slots(past), "mask": mask}
        if not self._und_through_gen:
            return self._graphs(contract.UND_STEP, outputs, ("new_kv",), **given)
        none = {"gen": self._no_rows, "gen_cos": self._no_rope, "gen_sin": self._no_rope}
        return self._graphs(contract.GEN_STEP, outputs, ("new_kv",), **given, **none)

    def frame(self, position: int, latents: int, pool: PagePool, past: Sequence) -> dict[str, Any]:
        """What stays the same however often an image of so many latents is evaluated over a context.

        Two markers and the latents stand at one position and all see each other.
        """
        und_rope, gen_rope = self.rope.constant(position, 2), self.rope.constant(position, latents)
        once = {
            "und": self._markers,
            "und_cos": und_rope[0],
            "und_sin": und_rope[1],
            "gen_cos": gen_rope[0],
            "gen_sin": gen_rope[1],
            "slots": pool.slots(past),
            "mask": np.ones((2, past.length + 2 + latents), bool),
        }
        hold = self._graphs.hold
        return {"pool": pool.tensor, **{name: hold(array) for name, array in once.items()}}

    def last_rows(self, gen: Tensor, frame: dict[str, Any]) -> np.ndarray:
        """Latent rows after the last layer (n, hidden); the context is read and not changed."""
        return self._graphs(contract.GEN_STEP, ("gen_out",), gen=gen, **frame)[0]

    def held_rows(self, gen: Tensor, frame: dict[str, Any]) -> Tensor:
        """`last_rows` that may stay with the engine: for the flow head and for sums."""
        return self._graphs(contract.GEN_STEP, ("gen_out",), ("gen_out",), gen=gen, **frame)[0]

    def image_kv(self, gen: Tensor, frame: dict[str, Any]) -> Tensor:
        """new_kv of an image that enters a context: both markers come before the latents (segments.Latents.order)."""
        return self._graphs(contract.GEN_STEP, ("new_kv",), ("new_kv",), gen=gen, **frame)[0]

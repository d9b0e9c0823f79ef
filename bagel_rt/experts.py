"""Calls of the two step graphs: rows in, rows and new keys and values out."""

from __future__ import annotations

import numpy as np

from bagel_rt import contract
from bagel_rt.graphs import Graphs
from bagel_rt.manifest import Manifest
from bagel_rt.pages import Sequence
from bagel_rt.pool import PagePool
from bagel_rt.rope import Rope

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
    ) -> tuple[np.ndarray, np.ndarray]:
        """Understanding rows over a context -> (rows, new_kv)."""
        cache = {"pool": pool.array, "slots": pool.slots(past), "mask": mask}
        if self._und_through_gen:
            out, new_kv = self._graphs(
                contract.GEN_STEP,
                ("und_out", "new_kv"),
                und=rows,
                gen=self._no_rows,
                und_cos=rope[0],
                und_sin=rope[1],
                gen_cos=self._no_rope,
                gen_sin=self._no_rope,
                **cache,
            )
        else:
            out, new_kv = self._graphs(contract.UND_STEP, und=rows, und_cos=rope[0], und_sin=rope[1], **cache)
        return out, new_kv

    def frame(self, position: int, latents: int, pool: PagePool, past: Sequence) -> dict[str, np.ndarray]:
        """What stays the same however often an image of so many latents is evaluated over a context.

        Two markers and the latents stand at one position and all see each other.
        """
        und_rope, gen_rope = self.rope.constant(position, 2), self.rope.constant(position, latents)
        return {
            "und": self._markers,
            "und_cos": und_rope[0],
            "und_sin": und_rope[1],
            "gen_cos": gen_rope[0],
            "gen_sin": gen_rope[1],
            "pool": pool.array,
            "slots": pool.slots(past),
            "mask": np.ones((2, past.length + 2 + latents), bool),
        }

    def last_rows(self, gen: np.ndarray, frame: dict[str, np.ndarray]) -> np.ndarray:
        """Latent rows after the last layer (n, hidden); the context is read and not changed."""
        return self._graphs(contract.GEN_STEP, ("gen_out",), gen=gen, **frame)[0]

    def image_kv(self, gen: np.ndarray, frame: dict[str, np.ndarray]) -> np.ndarray:
        """new_kv of an image that enters a context, in the order start marker, latents, end marker."""
        (out,) = self._graphs(contract.GEN_STEP, ("new_kv",), gen=gen, **frame)
        return np.concatenate([out[:, :1], out[:, 2:], out[:, 1:2]], axis=1)  # both markers come first

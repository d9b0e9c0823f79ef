"""Calls of the step graphs, which run the decoder's layers: gen_step (both experts) and und_step (understanding
alone)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bagel_engines import Tensor
from bagel_rt.adapters.choice import PLAIN, Choice
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


@dataclass(frozen=True)
class TextCall:
    """Understanding rows (n, hidden) that are run over the cached tokens in `slots`; mask: (n, slots + n)."""

    rows: Tensor
    rope: RopePair
    pool: PagePool
    slots: np.ndarray
    mask: np.ndarray
    adapter: Choice = PLAIN


class Experts:
    """The decoder's layers with both experts. Text and ViT tokens are rows of the understanding expert (und), latents
    of the generation expert (gen), (n, hidden) each. Results are rows before the final norm, which lm_head and
    flow_head apply."""

    def __init__(self, manifest: Manifest, graphs: Graphs, markers: np.ndarray):
        model = manifest.model
        self._graphs, self._markers = graphs, markers
        self.rope = Rope(model)
        # where the engine can run gen_step without latents, text goes through it too: one loaded graph holds all
        # weights
        self._und_through_gen = manifest.task == "full" and graphs.engine.takes_zero_rows
        self._und_graph = contract.GEN_STEP if self._und_through_gen else contract.UND_STEP
        self._no_rows = np.zeros((0, model.hidden_size), np.float32)
        self._no_rope = np.zeros((0, model.head_dim), np.float32)

    def und(self, given: TextCall) -> tuple[np.ndarray, Tensor]:
        """-> (rows, new_kv); new_kv may stay on the engine's device."""
        return self._und(("und_out", "new_kv"), ("new_kv",), given)

    def und_held(self, given: TextCall) -> tuple[Tensor, Tensor]:
        """`und` whose rows may stay there, too, for the head."""
        return self._und(("und_out", "new_kv"), ("und_out", "new_kv"), given)

    def und_kv(self, given: TextCall) -> Tensor:
        """`und` where only the keys and values are wanted."""
        return self._und(("new_kv",), ("new_kv",), given)[0]

    def _und(self, outputs: tuple[str, ...], held: tuple[str, ...], call: TextCall) -> tuple[Any, ...]:
        given = {"und": call.rows, "und_cos": call.rope[0], "und_sin": call.rope[1]}
        given |= {"pool": call.pool.tensor, "slots": call.slots, "mask": call.mask}
        given |= self._graphs.adapters.inputs(self._und_graph, call.adapter)
        if not self._und_through_gen:
            return self._graphs(contract.UND_STEP, outputs, held, **given)
        none = {"gen": self._no_rows, "gen_cos": self._no_rope, "gen_sin": self._no_rope}
        return self._graphs(contract.GEN_STEP, outputs, held, **given, **none)

    def frame(
        self, position: int, latents: int, pool: PagePool, past: Sequence, adapter: Choice = PLAIN
    ) -> dict[str, Any]:
        """The inputs of gen_step that are the same at every denoising step of a picture over a context.

        They are put on the engine's device once. The latents and the two vision markers around them share one position
        id and all attend to each other.
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
            **self._graphs.adapters.inputs(contract.GEN_STEP, adapter),
        }
        hold = self._graphs.hold
        return {"pool": pool.tensor, **{name: hold(array) for name, array in once.items()}}

    def last_rows(self, gen: Tensor, frame: dict[str, Any]) -> np.ndarray:
        """Latent rows after the last layer (n, hidden); the context is read and not changed."""
        return self._graphs(contract.GEN_STEP, ("gen_out",), gen=gen, **frame)[0]

    def held_rows(self, gen: Tensor, frame: dict[str, Any]) -> Tensor:
        """`last_rows`, left on the engine's device for the flow head and for step caching's sums."""
        return self._graphs(contract.GEN_STEP, ("gen_out",), ("gen_out",), gen=gen, **frame)[0]

    def image_kv(self, gen: Tensor, frame: dict[str, Any]) -> Tensor:
        """new_kv of an image that enters a context. Both markers come before the latents in it;
        inputs.segments.Latents.order puts them around."""
        return self._graphs(contract.GEN_STEP, ("new_kv",), ("new_kv",), gen=gen, **frame)[0]

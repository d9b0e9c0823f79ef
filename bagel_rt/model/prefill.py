"""Prefill: computes the keys and values that an image adds to a context. Texts are read by text_evaluator.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bagel_engines import Sums, Tensor
from bagel_rt.adapters.choice import PLAIN, Choice
from bagel_rt.artefact import contract
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.inputs.images import position_ids, stretched_places
from bagel_rt.inputs.segments import Gap, Grid, Latents, Patches, Segment, Text
from bagel_rt.kv_cache.page_pool import PagePool
from bagel_rt.kv_cache.page_table import Sequence
from bagel_rt.model.graphs import Graphs
from bagel_rt.model.step_graphs import Experts, TextCall
from bagel_rt.model.token_embeddings import TokenEmbeddings


class Prefill:
    def __init__(self, manifest: Manifest, graphs: Graphs, experts: Experts, embeddings: TokenEmbeddings):
        self._model = manifest.model
        self._graphs, self._experts, self._embeddings = graphs, experts, embeddings

    def run(self, segment: Segment, pool: PagePool, past: Sequence, position: int, adapter: Choice = PLAIN) -> Tensor:
        """The segment's new_kv (2 * layers, tokens, kv heads, head dim), its tokens in the order the graph returns
        them.

        past: the context it is read behind; position: the next position id there.
        """
        match segment:
            case Latents():
                rows = self.latent_rows(segment.rows, np.float32(0.0), segment.grid)
                frame = self._experts.frame(position, len(segment.rows), pool, past, adapter)
                return self._experts.image_kv(rows, frame)
            case Patches():
                return self._patches(segment, pool, past, position, adapter)
            case Text() | Gap():
                raise ValueError("prefill is of images")

    def latent_rows(self, latents: np.ndarray, t: np.float32, grid: Grid) -> Tensor:
        """Latents (n, 64) at time t -> rows for the generation expert (n, hidden), which may stay with the engine."""
        return self.placed_rows(latents, t, position_ids(grid, self._model.max_latent_size), held=("gen",))

    def placed_rows(self, latents: np.ndarray, t: np.float32, ids: np.ndarray, held: tuple[str, ...] = ()) -> Tensor:
        """As latent_rows, at any places (n,) of the position table; without `held` the rows come to the host."""
        time = np.array([t], np.float32)
        return self._graphs(contract.FLOW_EMBED, held=held, latents=latents, time=time, position_ids=ids)[0]

    def row_embedder(self, grid: Grid, sums: Sums) -> Callable[[np.ndarray, np.float32], Tensor]:
        """latent_rows of a picture of a grid, as a function of latents and time.

        A grid that is larger than the position table is laid over the whole table, between its entries, too: that is
        interpolation of the rows, because a row is a sum of which the position is one term.
        """
        side = self._model.max_latent_size
        if max(grid) <= side:
            return lambda x, t: self.latent_rows(x, t, grid)
        corners = stretched_places(grid, side)
        shift = self._graphs.hold(self._between(corners))
        nearest = corners[0][0]
        one = np.float32(1.0)
        return lambda x, t: sums.plus(self.placed_rows(x, t, nearest, held=("gen",)), one, shift)

    def _between(self, corners: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """What the rows at the first corner lack to be the mean of all corners by their weights."""
        nothing = np.zeros((len(corners[0][0]), self._model.latent_width), np.float32)
        rows = [np.asarray(self.placed_rows(nothing, np.float32(1.0), ids)) for ids, _ in corners]
        weighted = [(row - rows[0]) * weight[:, None] for row, (_, weight) in zip(rows[1:], corners[1:], strict=True)]
        return np.stack(weighted).sum(0, dtype=np.float32)

    def _patches(self, segment: Patches, pool: PagePool, past: Sequence, position: int, adapter: Choice) -> Tensor:
        ids = position_ids(segment.grid, self._model.vit_grid)
        (rows,) = self._graphs(contract.VIT, patches=segment.rows, position_ids=ids)
        markers = self._embeddings.markers
        rows = np.concatenate([markers[:1], rows, markers[1:]])
        mask = np.ones((len(rows), past.length + len(rows)), bool)
        rope = self._experts.rope.constant(position, len(rows))
        return self._experts.und_kv(TextCall(rows, rope, pool, pool.slots(past), mask, adapter))

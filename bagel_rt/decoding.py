"""From latents to a picture, whole or in tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bagel_rt import contract
from bagel_rt.events import Progress
from bagel_rt.graphs import Graphs
from bagel_rt.images import to_image, unpatchify
from bagel_rt.manifest import Manifest
from bagel_rt.segments import Grid
from bagel_rt.streaming import Turn
from bagel_rt.tiles import Tiling, decode_in_tiles

if TYPE_CHECKING:
    from PIL.Image import Image


class Decoder:
    """The VAE's decoder. A picture is decoded whole, as the official code does it, unless tiles are asked for."""

    def __init__(self, manifest: Manifest, graphs: Graphs, tiling: Tiling | None = None):
        self._manifest, self._graphs = manifest, graphs
        self._tiling = tiling or Tiling()

    def in_tiles(self, asked: bool, grid: Grid) -> bool:
        """Whether a picture of this grid is decoded in tiles: where asked, and it is more than one."""
        return asked and max(grid) * self._manifest.model.latent_patch_size > self._tiling.tile

    def run(self, latent: np.ndarray, grid: Grid, in_tiles: bool) -> Turn[Image]:
        """The picture of latents (h * w, 64)."""
        m = self._manifest.model
        planes = unpatchify(latent, grid, m.latent_patch_size)[None]
        planes = planes / np.float32(m.vae_scale) + np.float32(m.vae_shift)
        with self._graphs.lent(contract.VAE_DECODER):
            if in_tiles:
                pixels = planes
                for done, total, filled in decode_in_tiles(self._pixels, planes, m.vae_downsample, self._tiling):
                    pixels = filled
                    yield Progress("decoding", done, total)
            else:
                yield Progress("decoding", 0, 1)
                pixels = self._pixels(planes)
                yield Progress("decoding", 1, 1)
        return to_image(pixels[0])

    def _pixels(self, planes: np.ndarray) -> np.ndarray:
        return self._graphs(contract.VAE_DECODER, latent=planes)[0]

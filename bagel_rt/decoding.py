"""From latents to a picture, whole or in tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bagel_rt import contract, memory
from bagel_rt.events import Progress
from bagel_rt.graphs import Graphs
from bagel_rt.images import to_image, unpatchify
from bagel_rt.manifest import Manifest
from bagel_rt.segments import Grid
from bagel_rt.streaming import Turn
from bagel_rt.tiles import Tiling, decode_in_tiles
from bagel_rt.weightfile import length_of, tensor_shapes

if TYPE_CHECKING:
    from PIL.Image import Image

# of working memory for each pixel and channel of the VAE's base width: measured 33 to 35 at 1024 x 1024 with FLUX's
# width of 128, on ONNX Runtime and OpenVINO, and up to 39 on smaller pictures
DECODING_BYTES = 36
FLUX_WIDTH = 128


class Decoder:
    """The VAE's decoder. A picture is decoded whole, as the official code does it, unless memory is short or asked."""

    def __init__(self, manifest: Manifest, graphs: Graphs, tiling: Tiling | None = None):
        self._manifest, self._graphs = manifest, graphs
        self._tiling = tiling or Tiling()
        self._width: int | None = None

    def needs(self, grid: Grid) -> int:
        """Bytes of working memory that decoding a picture whole takes, about."""
        pixels = grid[0] * grid[1] * self._manifest.model.latent_stride**2
        return DECODING_BYTES * self.width * pixels

    def in_tiles(self, asked: bool | None, grid: Grid) -> bool:
        """Whether a picture of this grid is decoded in tiles: where asked, and by itself where it does not fit."""
        if max(grid) * self._manifest.model.latent_patch_size <= self._tiling.tile:
            return False  # it is one tile
        if asked is not None or self._graphs.engine.info.device != "cpu":
            return bool(asked)
        free = memory.free_bytes()
        return free is not None and self.needs(grid) + self._unloaded() > free

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

    @property
    def width(self) -> int:
        """Channels of the decoder's last level."""
        if self._width is None:
            last = length_of(tensor_shapes(self._manifest), "decoder.norm_out.weight")
            self._width = last or FLUX_WIDTH
        return self._width

    def _pixels(self, planes: np.ndarray) -> np.ndarray:
        return self._graphs(contract.VAE_DECODER, latent=planes)[0]

    def _unloaded(self) -> int:
        """Bytes of weights that come with the graph where it is not loaded yet."""
        if contract.VAE_DECODER in self._graphs.opened:
            return 0
        return 2 * int(self._manifest.graphs[contract.VAE_DECODER].get("weight_bytes", 0))  # as read, and packed

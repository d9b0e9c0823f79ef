"""Decodes latents to a picture by the VAE: whole, or in strips where the whole takes much more memory."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from bagel_rt.artefact import contract
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.events import Progress, Turn
from bagel_rt.inputs.images import to_image, unpatchify
from bagel_rt.inputs.segments import Grid
from bagel_rt.model.finite import check_finite
from bagel_rt.model.graphs import Graphs
from bagel_rt.model.vae_strips import decode_in_strips, in_strips, large

if TYPE_CHECKING:
    from PIL.Image import Image


class VaeDecoder:
    """The VAE's decoder. On engines that use main memory, a large picture is decoded in strips where that takes much
    less (vae_strips.py), and the graphs that decoded it are unloaded after it."""

    def __init__(self, manifest: Manifest, graphs: Graphs):
        self._manifest, self._graphs = manifest, graphs

    def run(self, latent: np.ndarray, grid: Grid) -> Turn[Image]:
        """The picture of latents (h * w, 64)."""
        m = self._manifest.model
        planes = unpatchify(latent, grid, m.latent_patch_size)[None]
        with np.errstate(over="ignore"):  # seen in the pixels
            planes = planes / np.float32(m.vae_scale) + np.float32(m.vae_shift)
        size = (m.vae_downsample * planes.shape[2], m.vae_downsample * planes.shape[3])
        if in_strips(self._manifest, self._graphs.engine.needs, *size):
            pixels = yield from self._strips(planes)
        else:
            yield Progress("decoding", 0, 1)
            brief = large(self._graphs.engine.needs, *size)
            with self._graphs.one_at_a_time() if brief else nullcontext(self._graphs) as run:
                (pixels,) = run(contract.VAE_DECODER, latent=planes)
            yield Progress("decoding", 1, 1)
        check_finite(pixels, "the decoded picture", self._graphs.engine.info)
        return to_image(pixels[0])

    def _strips(self, planes: np.ndarray) -> Turn[np.ndarray]:
        pixels = planes
        with self._graphs.one_at_a_time() as run:
            for done, total, found in decode_in_strips(run, planes):
                pixels = found
                yield Progress("decoding", done, total)
        return pixels

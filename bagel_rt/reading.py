"""From what a caller gives (texts and images) to the three histories of guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bagel_rt import contract
from bagel_rt.errors import InputError
from bagel_rt.graphs import Graphs
from bagel_rt.images import ImageInput, open_image, patchify, resize, to_pixels
from bagel_rt.manifest import Manifest
from bagel_rt.noise import TorchNoise
from bagel_rt.segments import Grid, Histories, Latents, Patches, Segment, Text
from bagel_rt.tokens import TextCodec

Item = str | ImageInput


@dataclass(frozen=True)
class Reading:
    histories: Histories
    size: tuple[int, int] | None  # (height, width) of the last image after resizing
    prompt: str  # the texts, for the record


class Reader:
    def __init__(self, manifest: Manifest, graphs: Graphs, codec: TextCodec):
        self._manifest, self._graphs, self._codec = manifest, graphs, codec

    def text(self, text: str) -> Text:
        return Text(self._codec.segment(text))

    def for_answer(self, items: Sequence[Item], system: str | None) -> Reading:
        """Images enter through the ViT alone."""
        return self._read(items, system, None, False)

    def for_image(self, items: Sequence[Item], system: str | None, noise: TorchNoise, sample: bool) -> Reading:
        """Images enter through the VAE, drawing from `noise` in order where `sample`, then through the ViT."""
        return self._read(items, system, noise, sample)

    def _read(self, items: Sequence[Item], system: str | None, noise: TorchNoise | None, sample: bool) -> Reading:
        if not items:
            raise InputError("nothing was given: at least one text or image is needed")
        opened = [item if isinstance(item, str) else open_image(item) for item in items]
        histories, size = Histories(), None
        if system is not None:
            histories = histories.with_system(self.text(system))
        for item in opened:
            if isinstance(item, str):
                histories = histories.with_text(self.text(item))
                continue
            item = resize(self._manifest.vae_transform, item)
            size = (item.height, item.width)
            segments: list[Segment] = []
            if noise is not None:
                segments.append(self.latents(to_pixels(item), noise if sample else None))
            segments.append(self.patches(to_pixels(resize(self._manifest.vit_transform, item))))
            histories = histories.with_image(*segments)
        return Reading(histories, size, "\n".join(item for item in opened if isinstance(item, str)))

    def latents(self, pixels: np.ndarray, noise: TorchNoise | None) -> Latents:
        """VAE encoding of pixels (3, H, W): a draw from the posterior, or its mean without noise."""
        m = self._manifest.model
        grid = self._grid(pixels, m.latent_stride, m.max_latent_size, "latents")
        (moments,) = self._graphs(contract.VAE_ENCODER, pixels=pixels[None])
        mean, logvar = np.split(moments, 2, axis=1)
        if noise is not None:
            mean = mean + np.exp(np.float32(0.5) * logvar) * noise.normal(*mean.shape)
        latent = np.float32(m.vae_scale) * (mean - np.float32(m.vae_shift))
        return Latents(patchify(latent[0], m.latent_patch_size), grid)

    def patches(self, pixels: np.ndarray) -> Patches:
        """Pixels (3, H, W) as rows for the ViT."""
        m = self._manifest.model
        return Patches(
            patchify(pixels, m.vit_patch_size), self._grid(pixels, m.vit_patch_size, m.vit_grid, "ViT patches")
        )

    def _grid(self, pixels: np.ndarray, unit: int, side: int, what: str) -> Grid:
        _, height, width = pixels.shape
        if height > unit * side or width > unit * side:
            raise InputError(
                f"an input image becomes {width}x{height} pixels, the position table of {what} ends at"
                f" {unit * side}x{unit * side}: lower max_size in the checkpoint's preprocessor_config.json and export"
                " again"
            )
        return height // unit, width // unit

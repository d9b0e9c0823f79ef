"""Reads inputs: texts are tokenized, images resized and encoded by the VAE, and both are added to the three histories
(conditional, without the last text, without images) that classifier-free guidance needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from bagel_rt.artefact import contract
from bagel_rt.artefact.manifest import Manifest, ResizeRule
from bagel_rt.errors import InputError
from bagel_rt.inputs.images import patchify, resize, to_pixels
from bagel_rt.inputs.pictures import ImageInput, open_image
from bagel_rt.inputs.segments import Grid, Histories, Latents, Patches, Segment, Text
from bagel_rt.inputs.tokenizer import TextCodec
from bagel_rt.model.finite import check_finite
from bagel_rt.model.graphs import Graphs
from bagel_rt.options.encoding import Encoding
from bagel_rt.sampling.torch_noise import TorchNoise

if TYPE_CHECKING:
    from PIL.Image import Image

Item = str | ImageInput


@dataclass(frozen=True)
class Reading:
    """All inputs so far, as the histories they make."""

    histories: Histories = field(default_factory=Histories)
    size: tuple[int, int] | None = None  # (height, width) of the last image after resizing
    image: Image | None = field(default=None, compare=False, repr=False)  # that image as it was opened
    texts: tuple[str, ...] = ()  # stored with results as the prompt

    @property
    def prompt(self) -> str:
        return "\n".join(self.texts)


def open_items(items: Sequence[Item]) -> list[str | Image]:
    """Texts as they are, images opened. Raises InputError for what is neither, or when nothing is there."""
    if isinstance(items, bytes) or not isinstance(items, Sequence):
        raise InputError(f"items must be a list of texts and images, not {type(items).__name__}")
    if not items:
        raise InputError("nothing was given: at least one text or image is needed")
    return [item if isinstance(item, str) else open_image(item) for item in items]


class Reader:
    def __init__(self, manifest: Manifest, graphs: Graphs, codec: TextCodec):
        self._manifest, self._graphs, self._codec = manifest, graphs, codec

    def text(self, text: str) -> Text:
        return Text(self._codec.segment(text))

    def start(self, system: str | None) -> Reading:
        """An empty reading, behind a system prompt or none."""
        return Reading() if system is None else Reading(Histories().with_system(self.text(system)))

    def read(self, items: Sequence[str | Image], system: str | None, how: Encoding, noise: TorchNoise) -> Reading:
        """All items in order."""
        reading = self.start(system)
        for item in items:
            if isinstance(item, str):
                reading = self.add_text(reading, item)
            else:
                reading = self.add_image(reading, item, how, noise)
        return reading

    def add_text(self, reading: Reading, text: str) -> Reading:
        return replace(reading, histories=reading.histories.with_text(self.text(text)), texts=(*reading.texts, text))

    def add_image(self, reading: Reading, image: Image, how: Encoding, noise: TorchNoise) -> Reading:
        segments, size = self.encoded(image, how, noise)
        return replace(reading, histories=reading.histories.with_image(*segments), size=size, image=image)

    def encoded(self, image: Image, how: Encoding, noise: TorchNoise) -> tuple[list[Segment], tuple[int, int]]:
        """An image's segments, and its (height, width) after resizing: its VAE latents (sampled with `noise` where
        how.vae_sample), then its patches for the ViT."""
        resized = resize(self._manifest.vae_transform, image)
        segments: list[Segment] = []
        if how.vae:
            segments.append(self.latents(to_pixels(resized), noise if how.vae_sample else None))
        if how.vit:
            seen = resize(self._vit_rule(how), image if how.vit_raw else resized)
            segments.append(self.patches(to_pixels(seen)))
        return segments, (resized.height, resized.width)

    def latents(self, pixels: np.ndarray, noise: TorchNoise | None) -> Latents:
        """VAE encoding of pixels (3, H, W): a draw from the posterior, or its mean without noise."""
        m = self._manifest.model
        grid = self._grid(pixels, m.latent_stride, m.max_latent_size, "latents")
        (moments,) = self._graphs(contract.VAE_ENCODER, pixels=pixels[None])
        check_finite(moments, "an input image, encoded by the VAE", self._graphs.engine.info)
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

    def _vit_rule(self, how: Encoding) -> ResizeRule:
        rule = self._manifest.vit_transform
        return replace(
            rule,
            min_size=rule.min_size if how.vit_min_size is None else how.vit_min_size,
            max_pixels=rule.max_pixels if how.vit_max_pixels is None else how.vit_max_pixels,
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


def skip_encoding(noise: TorchNoise, reading: Reading) -> None:
    """Move `noise` to where it stands after the posterior draws of the images that were read."""
    for segment in reading.histories.cond:
        if isinstance(segment, Latents):
            noise.normal(*segment.rows.shape)  # the posterior draw had as many numbers

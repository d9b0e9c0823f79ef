"""A picture from beginning to pixels: where denoising starts, what stays of another picture, one pass or two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bagel_rt.artefact.manifest import Manifest
from bagel_rt.asks import ALONE
from bagel_rt.errors import InputError
from bagel_rt.events import Step, Turn
from bagel_rt.generation.flow_sampler import FlowSampler
from bagel_rt.generation.reader import Reader, Reading
from bagel_rt.inputs.images import enlarged, to_pixels
from bagel_rt.inputs.masks import cells, fitted, pasted
from bagel_rt.inputs.picture_sizes import Sizes
from bagel_rt.inputs.segments import Grid, Histories
from bagel_rt.model.context_tree import Lease
from bagel_rt.model.vae_decoder import VaeDecoder
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.sampling.keeping import Kept, first_step, noised
from bagel_rt.sampling.schedule import timesteps
from bagel_rt.sampling.torch_noise import TorchNoise

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Painting:
    """A picture with the latent (h * w, 64) it was decoded from."""

    latent: np.ndarray
    image: Image


@dataclass(frozen=True)
class Source:
    """The input image that a picture begins with or keeps parts of, at the picture's size.

    clean: its latents (h * w, 64); mask: (height, width), True where it is drawn anew, None: everywhere.
    """

    picture: Image
    clean: np.ndarray
    mask: np.ndarray | None


class Painter:
    def __init__(self, manifest: Manifest, reader: Reader, sizes: Sizes, sampler: FlowSampler, decoder: VaeDecoder):
        self._model, self._reader, self._sizes = manifest.model, reader, sizes
        self._sampler, self._decoder = sampler, decoder

    def source(self, reading: Reading, opts: ImageOptions, size: tuple[int, int]) -> Source | None:
        """What options strength and mask need of the last input image, for a picture (height, width).

        Raises InputError where there is no image, or a mask of another size.
        """
        if opts.strength is None and opts.mask is None:
            return None
        if reading.image is None:
            raise InputError("strength and mask need an input image to begin with; give one, or leave them out")
        image = reading.image
        mask = None if opts.mask is None else fitted(opts.mask, (image.height, image.width), size)
        high, wide = size
        picture = image if image.size == (wide, high) else image.resize((wide, high))
        return Source(picture, self._reader.latents(to_pixels(picture), None).rows, mask)

    def paint(
        self,
        contexts: Lease,
        histories: Histories,
        opts: ImageOptions,
        start: np.ndarray,
        grid: Grid,
        noise: TorchNoise,
        source: Source | None = None,
    ) -> Turn[Painting]:
        """Denoise `start` (h * w, 64) and decode the latent. noise: where the first of two passes begins."""
        yield ALONE
        if opts.first_pass is None:
            latent = yield from self._one_pass(contexts, histories, opts, start, grid, source)
        else:
            latent = yield from self._two_passes(contexts, histories, opts, start, grid, noise)
        image = yield from self._decoder.run(latent, grid)
        if source is not None and source.mask is not None:
            image = pasted(image, source.picture, source.mask)
        return Painting(latent, image)

    def _one_pass(
        self,
        contexts: Lease,
        histories: Histories,
        opts: ImageOptions,
        x: np.ndarray,
        grid: Grid,
        source: Source | None,
    ) -> Turn[np.ndarray]:
        first, kept = 0, None
        if source is not None and source.mask is not None:
            kept = Kept(source.clean, x, cells(source.mask, self._model.latent_stride))
        if source is not None and opts.strength is not None:
            first, x = _late(source.clean, x, opts, opts.strength)
        return (yield from _followed(self._sampler.draw(contexts, histories, x, grid, opts, first, kept)))

    def _two_passes(
        self,
        contexts: Lease,
        histories: Histories,
        opts: ImageOptions,
        start: np.ndarray,
        grid: Grid,
        noise: TorchNoise,
    ) -> Turn[np.ndarray]:
        """Draw a smaller picture, enlarge its latents, and draw again from the time where those are half noise."""
        small = self._sizes.smaller(grid, opts.first_pass or 1.0)
        x = noise.normal(small[0] * small[1], self._model.latent_width)
        steps = opts.num_timesteps - 1
        more = steps - first_step(steps, opts.second_pass_strength)
        x = yield from _followed(self._sampler.draw(contexts, histories, x, small, opts), after=more)
        larger = enlarged(x, small, grid, self._model.latent_patch_size)
        first, x = _late(larger, start, opts, opts.second_pass_strength)
        return (yield from _followed(self._sampler.draw(contexts, histories, x, grid, opts, first), before=steps))


def _followed(steps: Iterator[Step], before: int = 0, after: int = 0) -> Turn[np.ndarray]:
    """Yield the steps of a pass, counted with those of other passes before and after it; returns the last latent."""
    for step in steps:
        latent = step.x
        yield replace(step, done=before + step.done, total=before + step.total + after)
    return latent


def _late(clean: np.ndarray, noise: np.ndarray, opts: ImageOptions, strength: float) -> tuple[int, np.ndarray]:
    """The step at which a picture begins that goes through a share of its steps, and clean latents noised for it."""
    first = first_step(opts.num_timesteps - 1, strength)
    return first, noised(clean, noise, timesteps(opts.num_timesteps, opts.timestep_shift)[first])

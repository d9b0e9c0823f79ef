"""Segments, the pieces a context is made of: a text, an image's VAE latents, an image's ViT patches, or a gap.

A context's history is a tuple of segments. Segments with equal content are equal (images by a hash of their numbers),
so equal histories are recognised and share one cached context (model/context_tree.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np

Grid = tuple[int, int]  # rows, columns


def _digest(array: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()


@dataclass(frozen=True)
class Text:
    ids: tuple[int, ...]  # im_start and im_end included

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def positions(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class _Image:
    """An image between the markers vision_start and vision_end: all its tokens share one position id."""

    rows: np.ndarray = field(compare=False, repr=False)
    grid: Grid
    content: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", _digest(self.rows))

    @property
    def tokens(self) -> int:
        return len(self.rows) + 2

    @property
    def positions(self) -> int:
        return 1


@dataclass(frozen=True)
class Gap:
    """Position ids that are skipped without a token, as one official script does (without_system_in_cfg_text)."""

    positions: int

    @property
    def tokens(self) -> int:
        return 0


class Latents(_Image):
    """rows (h * w, 64): clean latents of an input image."""

    @property
    def order(self) -> np.ndarray:
        """The place in the segment of each row of gen_step's new_kv, where both markers come before the latents."""
        return np.concatenate([[0, self.tokens - 1], np.arange(1, self.tokens - 1)])


class Patches(_Image):
    """rows (h * w, 588): pixels of an input image for the ViT."""


Segment = Text | Latents | Patches | Gap
History = tuple[Segment, ...]


@dataclass(frozen=True)
class Histories:
    """The contexts of the three branches of classifier-free guidance, as in the official interleave_inference.

    cond: everything. cfg_text: without the last text, unless an image follows it; text guidance leads away from this
    branch. cfg_img: the texts without any image; image guidance leads away from this one.
    """

    cond: History = ()
    cfg_text: History = ()
    cfg_img: History = ()

    def with_system(self, text: Text) -> Histories:
        """A system prompt enters cond and cfg_img; cfg_text inherits it with the next item."""
        return Histories((*self.cond, text), self.cfg_text, (*self.cfg_img, text))

    def with_text(self, text: Text) -> Histories:
        return Histories((*self.cond, text), self.cond, (*self.cfg_img, text))

    def with_image(self, *segments: Segment) -> Histories:
        cond = (*self.cond, *segments)
        return Histories(cond, cond, self.cfg_img)

    def with_thought(self, text: Text) -> Histories:
        """The text the model wrote before drawing enters cond alone."""
        return replace(self, cond=(*self.cond, text))

    def with_cfg_img_text(self, text: Text) -> Histories:
        """A text more for cfg_img alone: the official evaluation scripts put the thought there, too."""
        return replace(self, cfg_img=(*self.cfg_img, text))

    def with_negative(self, text: Text) -> Histories:
        """Guidance leads away from this text instead of from its absence."""
        return replace(self, cfg_text=(*self.cfg_text, text))

    def without_system_in_cfg_text(self) -> Histories:
        """cfg_text skips its first text and keeps its positions, as the official WISE script's thinking path does."""
        if not self.cfg_text or not isinstance(self.cfg_text[0], Text):
            return self
        return replace(self, cfg_text=(Gap(self.cfg_text[0].positions), *self.cfg_text[1:]))

"""A picture decoded piece by piece: overlapping tiles of the latent, their pixels blended into one picture.

The decoder's group norms and its attention see a tile instead of the whole picture, so the result is not the whole
picture's: there are no seams, but tone and contrast may differ from part to part. What a tile's border disturbs is cut
off (MARGIN); the rest of an overlap fades from one tile to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

TILE, OVERLAP, MARGIN = 72, 16, 4  # latent cells a side; at eight pixels a cell: 576, 128 and 32 pixels

Span = tuple[int, int]


@dataclass(frozen=True)
class Tiling:
    """How large tiles are and how they meet, in latent cells. Overlaps are two margins and more, tiles two overlaps."""

    tile: int = TILE
    overlap: int = OVERLAP
    margin: int = MARGIN

    def spans(self, length: int) -> list[Span]:
        """Equal spans that cover 0..length, the first from 0, the last to the end, as evenly spread as can be."""
        if length <= self.tile:
            return [(0, length)]
        count = -(-(length - self.overlap) // (self.tile - self.overlap))
        starts = [round(i * (length - self.tile) / (count - 1)) for i in range(count)]
        return [(start, start + self.tile) for start in starts]

    def weights(self, length: int, scale: int) -> list[np.ndarray]:
        """For each span, how much its pixels count, (scale * tile,) float32; all spans together give 1 everywhere."""
        spans = self.spans(length)
        found = [np.ones(scale * (stop - start), np.float32) for start, stop in spans]
        for i, ((before, end), (start, _)) in enumerate(pairwise(spans)):
            low, high = scale * (start + self.margin), scale * (end - self.margin)
            rise = np.clip((np.arange(scale * start, scale * end) + 0.5 - low) / (high - low), 0, 1).astype(np.float32)
            found[i][scale * (start - before) :] *= 1 - rise
            found[i + 1][: len(rise)] *= rise
        total = np.zeros(scale * length, np.float32)  # more than 1 where three tiles meet
        for (start, stop), weights in zip(spans, found, strict=True):
            total[scale * start : scale * stop] += weights
        return [weights / total[scale * a : scale * b] for (a, b), weights in zip(spans, found, strict=True)]


def decode_in_tiles(
    decode: Callable[[np.ndarray], np.ndarray], latent: np.ndarray, scale: int, how: Tiling | None = None
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Decode latent (1, c, h, w) with `decode`, which takes such arrays to pixels (1, 3, scale * h, scale * w).

    Yields (done, total, pixels) before the first tile and after each; the pixels are complete when done is total.
    """
    how = how or Tiling()
    high, wide = latent.shape[2:]
    rows, columns = (list(zip(how.spans(n), how.weights(n, scale), strict=True)) for n in (high, wide))
    pixels, total = np.zeros((1, 3, scale * high, scale * wide), np.float32), len(rows) * len(columns)
    yield 0, total, pixels
    for i, ((top, bottom), down) in enumerate(rows):
        for j, ((left, right), across) in enumerate(columns):
            piece = decode(np.ascontiguousarray(latent[:, :, top:bottom, left:right]))
            piece = piece * down[:, None] * across
            pixels[:, :, scale * top : scale * bottom, scale * left : scale * right] += piece
            yield i * len(columns) + j + 1, total, pixels

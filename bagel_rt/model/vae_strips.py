"""Decodes large pictures strip by strip: the same result as the whole VAE decoder in a part of its memory.

Most of the decoder's memory is at its two highest resolutions. There it consists of 3 x 3 convolutions, which need one
neighbouring row, and group norms, whose statistics are of the whole picture. So the decoder is cut at the norms
(contract.VAE_STRIPS). Each part runs over strips of rows, with one row more on either side, and the sums for the next
norm are gathered from all strips. There are no seams: only the order of sums differs from the whole decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bagel_engines.memory_needs import Needs
from bagel_rt.artefact.contract import (
    NORM_EPSILON,
    NORM_GROUPS,
    VAE_BLOCKS,
    VAE_BODY,
    VAE_LEVELS,
    VAE_OUT,
    VAE_RISE,
    VAE_STRIPS,
)
from bagel_rt.artefact.manifest import Manifest

STRIP = 64  # rows of pixels
WHOLE_UP_TO = 512 * 512  # pixels: smaller pictures are always decoded whole
WORTH = 0.75  # strips must take less than this share of the whole decoder's memory, as they take more time
Run = Callable[..., tuple[Any, ...]]  # a graph by its contract name
Norm = dict[str, np.ndarray]  # mean and rate, as strip graphs take them


def large(needs: Needs | None, height: int, width: int) -> bool:
    """Whether a picture is so large that its decoder is unloaded after it. needs: None on engines with memory of their
    own, which keep it."""
    return height * width > WHOLE_UP_TO and needs is not None


def in_strips(manifest: Manifest, needs: Needs | None, height: int, width: int) -> bool:
    """Whether a picture of that size is decoded in strips: the artefact has the parts, and it saves enough memory."""
    widths = manifest.widths
    if needs is None or widths is None or not large(needs, height, width) or not manifest.has(VAE_BODY):
        return False
    return strips_memory(height, width, widths.vae) < WORTH * needs.decoder(height * width, widths.vae)


def strips_memory(height: int, width: int, channels: int) -> int:
    """Peak bytes while a picture is decoded in strips: what is kept between two parts, and what one part takes (fitted
    to measurements). channels: the decoder's first width."""
    between = 3 * channels * height * width  # numbers: twice the channels before the first block, and its result
    within = 8 * 2 * channels * min(STRIP + 2, height) * width
    return 4 * (between + within)


def decode_in_strips(run: Run, latent: np.ndarray, strip: int = STRIP) -> Iterator[tuple[int, int, np.ndarray]]:
    """Decode latent (1, c, h, w) to pixels (1, 3, 8h, 8w) with run(graph, **inputs).

    Yields (done, total, pixels) before the first part and after each; the pixels are complete when done is total.
    """
    done, total = 1, 1 + len(VAE_STRIPS)
    none = np.zeros((1, 3, 0, 0), np.float32)
    yield 0, total, none
    (x,) = run(VAE_BODY, latent=latent)
    yield done, total, none
    norm: Norm = {}
    for level in VAE_LEVELS:
        x, norm = _risen(run, VAE_RISE[level], x, strip)
        yield (done := done + 1), total, none
        for first, second in VAE_BLOCKS[level]:
            y, inner = _convolved(run, first, x, norm, strip)
            yield (done := done + 1), total, none
            norm = _added(run, second, x, y, inner, strip)
            x = y
            yield (done := done + 1), total, none
    pixels = np.empty((1, 3, *x.shape[2:]), np.float32)
    for rows, seen, inside in _strips(x.shape[2], strip):
        pixels[:, :, rows] = run(VAE_OUT, x=_part(x, seen), **norm)[0][:, :, inside]
    yield total, total, pixels


def _risen(run: Run, graph: str, x: np.ndarray, strip: int) -> tuple[np.ndarray, Norm]:
    """Run an upsampling over strips; returns its result, and the statistics of the norm that follows."""
    high, wide = x.shape[2:]
    out, sums = np.empty((1, x.shape[1], 2 * high, 2 * wide), np.float32), Sums(x.shape[1])
    for rows, seen, inside in _strips(high, strip // 2):
        part = run(graph, x=_part(x, seen))[0][:, :, 2 * inside.start : 2 * inside.stop]
        sums.add(part)
        out[:, :, 2 * rows.start : 2 * rows.stop] = part
    return out, sums.norm()


def _convolved(run: Run, graph: str, x: np.ndarray, norm: Norm, strip: int) -> tuple[np.ndarray, Norm]:
    """Run the first half of a residual block over strips; returns its result, and the statistics for the second
    half."""
    out: np.ndarray | None = None
    sums = Sums(0)
    for rows, seen, inside in _strips(x.shape[2], strip):
        part = run(graph, x=_part(x, seen), **norm)[0][:, :, inside]
        if out is None:
            out, sums = np.empty((1, part.shape[1], *x.shape[2:]), np.float32), Sums(part.shape[1])
        sums.add(part)
        out[:, :, rows] = part
    assert out is not None
    return out, sums.norm()


def _added(run: Run, graph: str, x: np.ndarray, y: np.ndarray, norm: Norm, strip: int) -> Norm:
    """Run the second half of a residual block over strips, writing over its input y; returns the next norm's
    statistics.

    x: the block's input, for the skip connection.
    """
    sums, above = Sums(y.shape[1]), y[:, :, :0]
    for rows, seen, inside in _strips(y.shape[2], strip):
        below = y[:, :, rows.start : seen.stop]
        given = np.concatenate([above, below], axis=2)  # the row above in y was written over
        above = y[:, :, rows.stop - 1 : rows.stop].copy()
        part = run(graph, x=given, **norm, skip=_part(x, seen))[0][:, :, inside]
        sums.add(part)
        y[:, :, rows] = part
    return sums.norm()


def _strips(high: int, strip: int) -> Iterator[tuple[slice, slice, slice]]:
    """For each strip: its rows, its rows with one neighbour on either side, and the former's place among the latter."""
    for start in range(0, high, strip):
        stop = min(start + strip, high)
        first, last = max(0, start - 1), min(high, stop + 1)
        yield slice(start, stop), slice(first, last), slice(start - first, stop - first)


def _part(x: np.ndarray, rows: slice) -> np.ndarray:
    return np.ascontiguousarray(x[:, :, rows])


class Sums:
    """Gathers the sums that a group norm's statistics are made of, strip by strip, in float64."""

    def __init__(self, channels: int):
        self._sum, self._square, self._count = np.zeros(channels), np.zeros(channels), 0

    def add(self, part: np.ndarray) -> None:
        """(1, channels, rows, columns)"""
        rows = part[0].reshape(part.shape[1], -1)
        self._sum += rows.sum(axis=1)
        self._square += [np.dot(row, row) for row in rows]
        self._count += rows.shape[1]

    def norm(self) -> Norm:
        """mean and rate (1 / deviation) of each channel's group, (channels,) float32 each."""
        grouped = lambda sums: sums.reshape(NORM_GROUPS, -1).mean(axis=1) / self._count  # noqa: E731
        mean, square = grouped(self._sum), grouped(self._square)
        rate = 1 / np.sqrt(np.maximum(square - mean**2, 0) + NORM_EPSILON)
        each = len(self._sum) // NORM_GROUPS
        return {"mean": np.repeat(mean, each).astype(np.float32), "rate": np.repeat(rate, each).astype(np.float32)}

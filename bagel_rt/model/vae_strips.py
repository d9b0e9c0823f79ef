"""The decoder's highest resolutions computed strip by strip: the whole picture's result in a part of the memory.

There the VAE's decoder is convolutions, which look one row up and down, and group norms, which look at everything. So
it is cut at the norms: every part (contract.VAE_STRIPS) is run on strips of rows with a row more on each side, and the
norm of the next part is made of what all strips gave. What differs from the whole decoder is the order of sums.
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
WHOLE_UP_TO = 512 * 512  # pixels: up to so many, neither memory nor time is worth a choice
WORTH = 0.75  # of the whole decoder's memory: strips that take more are not worth the time that they cost
Run = Callable[..., tuple[Any, ...]]  # a graph by its contract name
Norm = dict[str, np.ndarray]  # mean and rate, as strip graphs take them


def large(needs: Needs | None, height: int, width: int) -> bool:
    """Whether what decodes a picture of that size is given back after it: much, and of the machine's own memory."""
    return height * width > WHOLE_UP_TO and needs is not None


def in_strips(manifest: Manifest, needs: Needs | None, height: int, width: int) -> bool:
    """Whether a picture of that size is decoded so: by an artefact that can, where it saves much memory."""
    widths = manifest.widths
    if needs is None or widths is None or not large(needs, height, width) or not manifest.has(VAE_BODY):
        return False
    return strips_memory(height, width, widths.vae) < WORTH * needs.decoder(height * width, widths.vae)


def strips_memory(height: int, width: int, channels: int) -> int:
    """Bytes at most while a picture is decoded so: between two parts, and in one of them (measured). channels: the
    decoder's first width."""
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
    """Twice the resolution, and the next norm."""
    high, wide = x.shape[2:]
    out, sums = np.empty((1, x.shape[1], 2 * high, 2 * wide), np.float32), Sums(x.shape[1])
    for rows, seen, inside in _strips(high, strip // 2):
        part = run(graph, x=_part(x, seen))[0][:, :, 2 * inside.start : 2 * inside.stop]
        sums.add(part)
        out[:, :, 2 * rows.start : 2 * rows.stop] = part
    return out, sums.norm()


def _convolved(run: Run, graph: str, x: np.ndarray, norm: Norm, strip: int) -> tuple[np.ndarray, Norm]:
    """A block's first half, and the next norm."""
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
    """A block's second half, put in place of what it reads; returns the next norm."""
    sums, above = Sums(y.shape[1]), y[:, :, :0]
    for rows, seen, inside in _strips(y.shape[2], strip):
        below = y[:, :, rows.start : seen.stop]
        given = np.concatenate([above, below], axis=2)  # the row above was written over
        above = y[:, :, rows.stop - 1 : rows.stop].copy()
        part = run(graph, x=given, **norm, skip=_part(x, seen))[0][:, :, inside]
        sums.add(part)
        y[:, :, rows] = part
    return sums.norm()


def _strips(high: int, strip: int) -> Iterator[tuple[slice, slice, slice]]:
    """For each strip: its rows, those it looks at, and where the first are among the second."""
    for start in range(0, high, strip):
        stop = min(start + strip, high)
        first, last = max(0, start - 1), min(high, stop + 1)
        yield slice(start, stop), slice(first, last), slice(start - first, stop - first)


def _part(x: np.ndarray, rows: slice) -> np.ndarray:
    return np.ascontiguousarray(x[:, :, rows])


class Sums:
    """What a group norm must know of a picture, gathered part by part in float64."""

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

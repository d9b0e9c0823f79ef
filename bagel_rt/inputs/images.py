"""Pictures as numbers: the official resize rules, pixels, patches and latents."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from bagel_rt.artefact.manifest import ResizeRule

if TYPE_CHECKING:
    from PIL.Image import Image


def resized_size(rule: ResizeRule, width: int, height: int) -> tuple[int, int]:
    """(width, height) that the official code resizes to (data/transforms.py, ImageTransform), its roundings included.

    The last two rules scale by a ratio of areas, not its root, and may go below min_size: kept, as results depend on
    it.
    """

    def fit(side: int, scale: float) -> int:
        return max(rule.stride, round(round(side * scale) / rule.stride) * rule.stride)

    scale = max(min(rule.max_size / max(width, height), 1.0), rule.min_size / min(width, height))
    width, height = fit(width, scale), fit(height, scale)
    if width * height > rule.max_pixels:
        scale = rule.max_pixels / (width * height)
        width, height = fit(width, scale), fit(height, scale)
    if max(width, height) > rule.max_size:
        scale = rule.max_size / max(width, height)
        width, height = fit(width, scale), fit(height, scale)
    return width, height


def resize(rule: ResizeRule, image: Image) -> Image:
    """The image at resized_size, by PIL's bicubic filter; untouched where the size is right already."""
    from PIL import Image as pil

    size = resized_size(rule, *image.size)
    return image if size == image.size else image.resize(size, pil.Resampling.BICUBIC)


def to_pixels(image: Image) -> np.ndarray:
    """(3, H, W) float32 in -1..1."""
    values = np.asarray(image, np.float32) / np.float32(255.0)
    return np.ascontiguousarray(((values - np.float32(0.5)) / np.float32(0.5)).transpose(2, 0, 1))


def patchify(planes: np.ndarray, patch: int) -> np.ndarray:
    """(c, H, W) -> (H/patch * W/patch, patch * patch * c): rows in reading order, channel fastest inside a row."""
    c, height, width = planes.shape
    grid = planes.reshape(c, height // patch, patch, width // patch, patch)
    return np.ascontiguousarray(grid.transpose(1, 3, 2, 4, 0).reshape(-1, patch * patch * c))


def unpatchify(rows: np.ndarray, grid: tuple[int, int], patch: int) -> np.ndarray:
    """The inverse of patchify for a grid (rows, columns)."""
    high, wide = grid
    cells = rows.reshape(high, wide, patch, patch, -1).transpose(4, 0, 2, 1, 3)
    return np.ascontiguousarray(cells.reshape(-1, high * patch, wide * patch))


def enlarged(rows: np.ndarray, grid: tuple[int, int], to: tuple[int, int], patch: int) -> np.ndarray:
    """Latents (h * w, 64) of a grid brought to another one, each channel by PIL's bicubic filter."""
    from PIL import Image as pil

    size = (to[1] * patch, to[0] * patch)
    planes = [pil.fromarray(p).resize(size, pil.Resampling.BICUBIC) for p in unpatchify(rows, grid, patch)]
    return patchify(np.stack([np.asarray(p) for p in planes]), patch)


def position_ids(grid: tuple[int, int], table_side: int) -> np.ndarray:
    """Row-major ids row * table_side + column of a grid (rows, columns), int64."""
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    return (rows * table_side + columns).reshape(-1).astype(np.int64)


def stretched_places(grid: tuple[int, int], table_side: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A grid (rows, columns) laid over a position table that is smaller than it: bilinear interpolation.

    Of each of the four entries around a cell the ids (n,), as position_ids has them, and the weights (n,) float32. An
    axis that fits keeps its own positions.
    """
    rows, columns = (_stretched_axis(count, table_side) for count in grid)
    found = []
    for (row, row_weight), (column, column_weight) in itertools.product(rows, columns):
        ids = row[:, None] * table_side + column[None, :]
        found.append((ids.reshape(-1), np.outer(row_weight, column_weight).reshape(-1).astype(np.float32)))
    return found


def _stretched_axis(count: int, table_side: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The entries below and above each position of an axis, with their weights."""
    at = np.arange(count) if count <= table_side else np.linspace(0, table_side - 1, count)
    below = np.minimum(np.floor(at).astype(np.int64), table_side - 1)
    above = np.minimum(below + 1, table_side - 1)
    return [(below, 1 - (at - below)), (above, at - below)]


def to_image(pixels: np.ndarray) -> Image:
    """(3, H, W) in about -1..1 -> PIL image; values are cut, not rounded, as the official code does."""
    from PIL import Image as pil

    values = np.clip(pixels * np.float32(0.5) + np.float32(0.5), 0.0, 1.0) * np.float32(255.0)
    return pil.fromarray(values.transpose(1, 2, 0).astype(np.uint8))

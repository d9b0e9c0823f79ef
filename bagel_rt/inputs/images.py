"""Pictures in and out: opening, the official resize rules, patches and latents."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np

from bagel_rt.artefact.manifest import ResizeRule
from bagel_rt.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ImageInput = Union["Image", str, Path, bytes, np.ndarray]


def open_image(source: ImageInput) -> Image:
    """An RGB PIL image from a PIL image, a path, encoded bytes or a uint8 array (H, W), (H, W, 3) or (H, W, 4).

    EXIF orientation is applied, transparency is laid on white. Raises InputError naming the source.
    """
    from PIL import Image as pil
    from PIL import ImageOps

    if isinstance(source, np.ndarray):
        image, name = _from_array(source), "image array"
    elif isinstance(source, bytes | bytearray | memoryview):
        image, name = _decode(io.BytesIO(source), "image bytes"), "image bytes"
    elif isinstance(source, str | Path):
        name = str(source)
        image = decode_file(Path(source))
    elif isinstance(source, pil.Image):
        image, name = source, "PIL image"
    else:
        raise InputError(f"an image is a PIL image, path, bytes or uint8 array, not {type(source).__name__}")
    try:
        image = ImageOps.exif_transpose(image)
        return _to_rgb(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{name}: the image cannot be read: {error}") from None


def decode_file(path: Path) -> Image:
    """A decoded PIL image as stored. Raises InputError naming the file."""
    if not path.is_file():
        raise InputError(f"{path}: no such image file")
    return _decode(path, str(path))


def _decode(stream, name: str) -> Image:
    from PIL import Image as pil

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pil.DecompressionBombWarning)
            image = pil.open(stream)
            image.load()
            return image
    except (pil.DecompressionBombError, pil.DecompressionBombWarning):
        raise InputError(
            f"{name}: more than {pil.MAX_IMAGE_PIXELS} pixels, refused as a decompression bomb; scale it down first"
        ) from None
    except Exception as error:  # decoders raise whatever broken data makes them raise
        raise InputError(f"{name}: not a readable image: {error}") from None


def _from_array(array: np.ndarray) -> Image:
    from PIL import Image as pil

    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shaped or 0 in array.shape:
        raise InputError(
            f"an image array is uint8 with shape (H, W), (H, W, 3) or (H, W, 4), not {array.dtype} {array.shape}"
        )
    return pil.fromarray(np.ascontiguousarray(array))


def _to_rgb(image: Image) -> Image:
    from PIL import Image as pil

    if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit grey: PIL would cut instead of scale
        image = pil.fromarray((np.asarray(image).astype(np.uint32).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = pil.new("RGB", image.size, (255, 255, 255))
        canvas.paste(image, mask=image.split()[3])
        return canvas
    return image.convert("RGB")


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


def position_ids(grid: tuple[int, int], table_side: int) -> np.ndarray:
    """Row-major ids row * table_side + column of a grid (rows, columns), int64."""
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    return (rows * table_side + columns).reshape(-1).astype(np.int64)


def to_image(pixels: np.ndarray) -> Image:
    """(3, H, W) in about -1..1 -> PIL image; values are cut, not rounded, as the official code does."""
    from PIL import Image as pil

    values = np.clip(pixels * np.float32(0.5) + np.float32(0.5), 0.0, 1.0) * np.float32(255.0)
    return pil.fromarray(values.transpose(1, 2, 0).astype(np.uint8))

"""Masks say which part of a picture is drawn anew."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bagel_rt.errors import InputError
from bagel_rt.files.typed_paths import typed_path
from bagel_rt.inputs.pictures import ImageInput, decode_bytes, decode_file, open_image
from bagel_rt.options.checks import whole

if TYPE_CHECKING:
    from PIL.Image import Image


def open_mask(source: Any) -> np.ndarray:
    """(H, W) booleans, True where the picture is drawn anew.

    source: booleans of that shape, or a picture as images are given. One with transparency: what is transparent is
    drawn anew, as OpenAI's clients send it. Any other: what is white, as diffusers has it. Half is half: 128 of 255 is
    white, an alpha of 127 transparent.
    """
    if isinstance(source, np.ndarray) and source.dtype == bool and source.ndim == 2:
        return source
    alpha = _alpha(source)
    drawn = np.asarray(open_image(source).convert("L")) >= 128 if alpha is None else alpha < 128
    if not drawn.any():
        what = "no pixel is white" if alpha is None else "no pixel is transparent"
        raise InputError(f"mask: {what}, so nothing would be drawn; white, or else transparent, is drawn anew")
    return drawn


def with_mask_opened(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a picture with their mask, if there is one, as booleans."""
    given = options.get("mask")
    return dict(options) if given is None else {**options, "mask": open_mask(given)}


def fitted(mask: np.ndarray, image_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The mask at a drawn picture's size (height, width). It has that size, or that of the input image."""
    from PIL import Image as pil

    if mask.shape == size:
        return mask
    if mask.shape != image_size:
        high, wide = mask.shape
        raise InputError(
            f"mask is {wide}x{high} pixels; the image's {image_size[1]}x{image_size[0]}, or the picture's"
            f" {size[1]}x{size[0]}, are expected"
        )
    resized = pil.fromarray(mask).resize((size[1], size[0]), pil.Resampling.NEAREST)
    return np.asarray(resized, bool)


def extended(
    image: ImageInput, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0
) -> tuple[Image, np.ndarray]:
    """A larger picture, with the image's border drawn out by so many pixels, and the mask of what was added.

    Both are for edit, which draws what the mask shows: outpainting. Raises InputError for a negative side.
    """
    from PIL import Image as pil

    sides = {"left": left, "top": top, "right": right, "bottom": bottom}
    for name, side in sides.items():
        whole(name, side, least=0)
    pixels = np.asarray(open_image(image))
    around = ((top, bottom), (left, right))
    mask = np.pad(np.zeros(pixels.shape[:2], bool), around, constant_values=True)
    return pil.fromarray(np.pad(pixels, (*around, (0, 0)), mode="edge")), mask


def cells(mask: np.ndarray, stride: int) -> np.ndarray:
    """(n,) booleans, True for the latent tokens of which any pixel is drawn, in reading order."""
    high, wide = (side // stride for side in mask.shape)
    return mask.reshape(high, stride, wide, stride).any(axis=(1, 3)).reshape(-1)


def pasted(drawn: Image, original: Image, mask: np.ndarray) -> Image:
    """The drawn picture, with the original's own pixels where the mask is False."""
    from PIL import Image as pil

    return pil.fromarray(np.where(mask[..., None], np.asarray(drawn), np.asarray(original)))


def _alpha(source: Any) -> np.ndarray | None:
    """The alpha channel (H, W) of a picture that has one."""
    if isinstance(source, np.ndarray):
        return source[..., 3] if source.ndim == 3 and source.shape[2] == 4 and source.dtype == np.uint8 else None
    image: Any = source
    if isinstance(source, bytes | bytearray | memoryview):
        image = decode_bytes(io.BytesIO(source), "mask bytes")
    elif isinstance(source, str | Path):
        image = decode_file(typed_path(source))
    bands = getattr(image, "getbands", tuple)()
    if "transparency" in getattr(image, "info", {}):
        image, bands = image.convert("RGBA"), ("A",)
    return np.asarray(image.getchannel("A")) if "A" in bands else None

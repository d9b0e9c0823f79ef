"""Every format of pixels becomes 8-bit sRGB, by rules that are stated here, or is refused by name.

What 255 stands for follows from the type: an unsigned 8-bit number is itself, 16 bits are brought to 8 by leaving the
lower ones out, a float runs from 0 to 1, a boolean is black or white. Other integers say nothing about their range: 0
to 255 is taken as 8 bits. A number outside its range is refused; it would be shown as black, white or noise.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from bagel_rt.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ROUNDING = 1e-3  # floats so little outside 0..1 are clipped instead of refused: a quarter of a grey level
# Pillow's mode -> the one that keeps its colours and transparency; every other becomes RGB
PLAIN = {"1": "L", "L": "L", "La": "LA", "LA": "LA", "PA": "RGBA", "RGBa": "RGBA", "RGBA": "RGBA"}
PLAIN |= {"CMYK": "CMYK", "LAB": "LAB"}
SIXTEEN_BITS = ("PNG", "PPM")  # file formats from which Pillow's mode I (32-bit integers) always holds 16-bit values


def from_array(array: np.ndarray) -> Image:
    """The picture of an array (H, W), (H, W, 3) or (H, W, 4). Raises InputError."""
    from PIL import Image as pil

    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise InputError(f"an image array has shape (H, W), (H, W, 3) or (H, W, 4), not {array.shape}")
    if 0 in array.shape:
        raise InputError(f"the image array has no pixels: its shape is {array.shape}")
    return pil.fromarray(np.ascontiguousarray(eight_bits(np.asarray(array), "image array")))


def eight_bits(values: np.ndarray, name: str) -> np.ndarray:
    """The values as uint8. Raises InputError for a type without a rule and for numbers outside its range."""
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return values
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "f":
        return _from_floats(values, name)
    if kind not in "iu":
        raise InputError(f"{name}: pixels of type {values.dtype} cannot be shown; give uint8, or floats from 0 to 1")
    if values.dtype.newbyteorder("=") == np.uint16:
        return (values >> 8).astype(np.uint8)
    _check_range(values, 0, 255, name, "give uint8 (0 to 255), uint16 (0 to 65535), or floats from 0 to 1")
    return values.astype(np.uint8)


def to_rgb(image: Image, name: str) -> Image:
    """An RGB image in sRGB, without transparency. Raises InputError for values outside their range."""
    image = _plain(image, name)
    has_alpha = image.mode in ("LA", "RGBA")
    shown = _srgb(image.convert(image.mode[:-1]) if has_alpha else image, image.info.get("icc_profile"))
    return _on_white(shown, image.getchannel("A")) if has_alpha else shown


def _from_floats(values: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InputError(f"{name}: holds numbers that are not finite (NaN or infinity)")
    _check_range(values, 0, 1, name, "a float picture runs from 0 to 1: scale it, or give uint8", ROUNDING)
    return np.rint(values.astype(np.float64).clip(0, 1) * 255).astype(np.uint8)


def _check_range(values: np.ndarray, low: int, high: int, name: str, advice: str, beyond: float = 0) -> None:
    least, most = values.min(), values.max()
    if least < low - beyond or most > high + beyond:
        raise InputError(
            f"{name}: {values.dtype} pixels from {least:g} to {most:g}; {low} to {high} is expected: {advice}"
        )


def _plain(image: Image, name: str) -> Image:
    """The image in mode L, LA, RGB, RGBA, CMYK or LAB, 8 bits each; its colour profile is kept."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image, name)
    mode = PLAIN.get(image.mode, "RGB")
    if mode in ("L", "RGB") and image.has_transparency_data:
        image, mode = _with_eight_bit_key(image), {"L": "LA", "RGB": "RGBA"}[mode]
    return image if mode == image.mode else image.convert(mode)


def _deep_grey(image: Image, name: str) -> Image:
    """Grey of more than 8 bits, and the one grey that a PNG may declare transparent."""
    from PIL import Image as pil

    values = np.asarray(image)
    clear = image.info.get("transparency")
    if image.mode == "I":
        values = _whole_numbers(values, image.format, name)
    plain = pil.fromarray(eight_bits(values, name))
    if isinstance(clear, int):
        plain.putalpha(pil.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    if "icc_profile" in image.info:
        plain.info["icc_profile"] = image.info["icc_profile"]
    return plain


def _whole_numbers(values: np.ndarray, format: str | None, name: str) -> np.ndarray:
    """Mode I as uint8 where nothing is above 255, else as uint16; of a format that always holds 16 bits as uint16."""
    _check_range(values, 0, 65535, name, "scale the picture to 8 or 16 bits")
    deep = format in SIXTEEN_BITS or values.max() > 255
    return values.astype(np.uint16 if deep else np.uint8)


def _with_eight_bit_key(image: Image) -> Image:
    """The image with its transparent colour scaled to 8 bits: of a 16-bit PNG Pillow gives pixels in 8 bits, but this
    colour in 16."""
    key: Any = image.info["transparency"]
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    return image


def _on_white(image: Image, alpha: Image) -> Image:
    from PIL import Image as pil

    canvas = pil.new("RGB", image.size, (255, 255, 255))
    canvas.paste(image, mask=alpha)
    return canvas


def _srgb(image: Image, profile: Any) -> Image:
    """RGB in sRGB. A profile that is broken, or is for another kind of picture, is ignored, as browsers do."""
    from PIL import ImageCms

    if image.mode == "LAB" or profile:
        try:
            own = ImageCms.createProfile("LAB") if image.mode == "LAB" else io.BytesIO(profile)
            to_srgb = ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), image.mode, "RGB")
            if not _changes_nothing(to_srgb, image.mode):
                image = ImageCms.applyTransform(image, to_srgb) or image
        except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
            pass
    return image.convert("RGB")


def _changes_nothing(to_srgb: Any, mode: str) -> bool:
    """Whether a profile is sRGB itself, but for rounding: then the pixels stay as they are, to the bit."""
    from PIL import Image as pil
    from PIL import ImageCms

    if mode != "RGB":
        return False
    side = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(side, side, side), axis=-1).reshape(len(side), -1, 3)
    seen = ImageCms.applyTransform(pil.fromarray(colours), to_srgb)
    return int(np.abs(np.asarray(seen).astype(int) - colours).max()) <= 2

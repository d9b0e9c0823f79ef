"""Pictures as callers have them: opened, turned upright, and refused by name where they cannot be shown."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Union

import numpy as np

from bagel_rt.errors import InputError
from bagel_rt.files.typed_paths import typed_path
from bagel_rt.inputs.pixel_formats import from_array, to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

ImageInput = Union["Image", str, Path, bytes, np.ndarray]
ORIENTATION = 0x0112  # the EXIF tag that says how the camera was held


def open_image(source: ImageInput) -> Image:
    """An RGB PIL image from a PIL image, a path, encoded bytes, or an array (H, W), (H, W, 3) or (H, W, 4).

    Of several frames the first. It is turned as its EXIF orientation says, brought to 8 bits and to sRGB, and laid on
    white where it is transparent (pixel_formats). Raises InputError naming the source.
    """
    from PIL import Image as pil

    if isinstance(source, np.ndarray):
        return _shown(from_array(source), "image array")
    if isinstance(source, bytes | bytearray | memoryview):
        return _shown(decode_bytes(io.BytesIO(source), "image bytes"), "image bytes")
    if isinstance(source, str | Path):
        path = typed_path(source)
        return _shown(decode_file(path), str(path))
    if isinstance(source, pil.Image):
        return _shown(source, "PIL image")
    raise InputError(f"an image is a PIL image, a path, bytes or an array, not {type(source).__name__}")


def open_images(given: Sequence[ImageInput] | ImageInput) -> list[Image]:
    """One image or a list of them, opened."""
    return [open_image(one) for one in (given if isinstance(given, list | tuple) else [given])]  # type: ignore[list-item]


def decode_file(path: Path) -> Image:
    """A decoded PIL image as stored. Raises InputError naming the file."""
    with _refused_by_name(str(path)):
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name an image file")
        if not path.is_file():
            raise InputError(f"{path}: no such image file")
        with path.open("rb") as stream:
            return decode_bytes(stream, str(path))


def decode_bytes(stream: BinaryIO, name: str) -> Image:
    """A decoded PIL image as stored in an open file. Raises InputError with the name."""
    from PIL import Image as pil

    with _refused_by_name(name):
        image = pil.open(stream)  # the header alone: its size is looked at before memory is taken for it
        limit = pil.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise _bomb(name)
        image.load()
        return image


def _shown(image: Image, name: str) -> Image:
    """The picture as the model will see it: upright, RGB, opaque."""
    with _refused_by_name(name):
        if 0 in image.size:
            raise InputError(f"{name}: the image has no pixels: it is {image.width} x {image.height}")
        return _upright(to_rgb(image, name), _orientation(image))


@contextmanager
def _refused_by_name(name: str) -> Iterator[None]:
    """Whatever Pillow raises inside becomes an InputError: decoders raise whatever broken data makes them raise."""
    from PIL import Image as pil
    from PIL import UnidentifiedImageError

    try:
        yield
    except InputError:
        raise
    except (pil.DecompressionBombError, pil.DecompressionBombWarning):
        raise _bomb(name) from None
    except UnidentifiedImageError:  # its words name a Python object
        known = "PNG, JPEG, WebP, GIF, BMP, TIFF and others are read"
        raise InputError(f"{name}: not a readable image: its bytes are of no known format; {known}") from None
    except Exception as error:
        why = str(error) or type(error).__name__
        raise InputError(f"{name}: not a readable image: {why}") from None


def _bomb(name: str) -> InputError:
    from PIL import Image as pil

    limit = pil.MAX_IMAGE_PIXELS
    return InputError(f"{name}: more than {limit} pixels, refused as a decompression bomb; scale it down first")


def _orientation(image: Image) -> object:
    """The EXIF orientation, None where there is none or the EXIF is too damaged to say: no other entry matters."""
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # Pillow raises all kinds of errors for damaged entries
        return None


def _upright(image: Image, orientation: object) -> Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = next((way for value, way in turns.items() if orientation == value), None)
    return image if turn is None else image.transpose(turn)

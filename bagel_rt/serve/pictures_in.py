"""Pictures of a request: from data URLs, base64, files and allowed addresses; checked before decoding."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bagel_rt.errors import BagelError
from bagel_rt.inputs.masks import open_mask
from bagel_rt.inputs.pictures import open_image
from bagel_rt.serve.failures import refused
from bagel_rt.serve.fetching import fetch
from bagel_rt.serve.settings import ServeSettings

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


class PictureReader:
    """Opens the pictures of one request, and counts their pixels together."""

    def __init__(self, settings: ServeSettings, fetch: Callable[[str, ServeSettings], bytes] = fetch):
        self._settings, self._fetch = settings, fetch
        self._pixels = self._count = 0

    def image(self, given: Any, where: str) -> Image:
        """An upright RGB picture."""
        return open_image(self._decoded(given, where))

    def mask(self, given: Any, where: str, white: bool = False) -> np.ndarray:
        """(H, W) booleans, True where the picture is drawn anew.

        As the library reads masks: what is transparent, or in a mask without transparency what is white. `white`: what
        is white, whatever is transparent.
        """
        found = self._decoded(given, where)
        return open_mask(found.convert("RGB") if white else found)

    def _decoded(self, given: Any, where: str) -> Image:
        """The picture as it is stored, decoded once its header was looked at."""
        from PIL import Image as pil

        self._count += 1
        if self._count > self._settings.max_images + 1:  # and a mask
            raise refused(f"{where}: more than {self._settings.max_images} pictures in one request", where)
        data = self._bytes(given, where)
        try:
            found = pil.open(io.BytesIO(data), formats=FORMATS)
            self._check_pixels(*found.size, where)
            found.load()
        except BagelError:
            raise
        except pil.DecompressionBombError:
            raise refused(f"{where}: more pixels than are taken; scale it down first", where) from None
        except Exception:  # decoders raise whatever broken data makes them raise
            raise refused(f"{where}: not a readable picture; {', '.join(FORMATS)} are read", where) from None
        return found

    def _check_pixels(self, width: int, height: int, where: str) -> None:
        self._pixels += width * height
        if self._pixels > (most := self._settings.max_pixels):
            raise refused(
                f"{where}: {width} x {height} pixels; the pictures of a request may have {most} together, scale them"
                " down first",
                where,
            )

    def _bytes(self, given: Any, where: str) -> bytes:
        if isinstance(given, bytes):
            return given
        if isinstance(given, dict):
            return self._bytes(_inner(given, where), where)
        if not isinstance(given, str) or not given:
            raise refused(f"{where}: a picture is a data URL, base64 text or a file, not {type(given).__name__}", where)
        if given.startswith(("http://", "https://")):
            return self._fetch(given, self._settings)
        head, comma, text = given.partition(",") if given.startswith("data:") else ("", ",", given)
        if not comma or (head and not head.endswith(";base64")):
            raise refused(f"{where}: a data URL begins with data:image/png;base64, here", where)
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise refused(f"{where}: neither base64 nor an address that begins with https://", where) from None


def _inner(given: dict, where: str) -> Any:
    """{"url": ...}, {"image_url": ...}, {"b64_json": ...}: what stands inside."""
    if given.get("file_id") is not None:
        raise refused(f"{where}: file_id names an upload, and this server keeps none; send the picture itself", where)
    found = next((given[key] for key in ("image_url", "url", "b64_json", "data") if given.get(key) is not None), None)
    if isinstance(found, dict) and any(isinstance(inner, dict) for inner in found.values()):
        raise refused(f"{where}: an object in an object in an object; a data URL is expected", where)
    return found


def as_list(given: Any) -> list[Any]:
    return [] if given is None else list(given) if isinstance(given, list) else [given]

"""The settings of a picture inside its file: a text chunk of PNG, the EXIF user comment of JPEG, WebP and TIFF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bagel_rt.errors import InputError
from bagel_rt.files.text_files import json_line, parse_json

if TYPE_CHECKING:
    from PIL.Image import Image

KEY = "bagel_rt"  # name of the PNG chunk, and a key of every record, whose value is this package's version
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
KEEPING = ("PNG", "JPEG", "WEBP", "TIFF")
EXIF_IFD, USER_COMMENT, ASCII = 0x8769, 0x9286, b"ASCII\0\0\0"
JPEG_ROOM = 65000  # bytes: EXIF is one segment of a JPEG, and segments end at 64 KiB


class DamagedRecord(InputError):
    """A picture's record that cannot be read."""


def format_of(path: Path) -> str:
    """Pillow's name of the format a file name asks for. Raises InputError for one that pictures are not written in."""
    from PIL import Image as pil

    pil.init()
    known = {ending: kind for ending, kind in pil.EXTENSION.items() if kind in FORMATS}
    kind = known.get(path.suffix.lower())
    if kind is None:
        allowed = ", ".join(sorted(known))
        raise InputError(f"{path}: unknown image format {path.suffix!r}; allowed: {allowed}")
    if kind not in pil.SAVE:
        raise InputError(f"{path}: this Pillow writes no {kind}; install one that does, or write a .png")
    return kind


def why_not_kept(path: Path, record: dict[str, Any] | None = None) -> str | None:
    """Why the file will not hold its settings (any record, or this one); None where it will."""
    kind = format_of(path)
    if kind not in KEEPING:
        return f"{path}: {kind} keeps no settings; {', '.join(KEEPING)} do"
    if kind == "JPEG" and record is not None and len(_comment(record)) > JPEG_ROOM:
        return f"{path}: the settings, plan included, are too long for a JPEG; PNG, WEBP and TIFF keep them"
    return None


def arguments(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for Pillow's Image.save that store the record; empty where the format cannot keep it
    (why_not_kept says why)."""
    if why_not_kept(path, record):
        return {}
    if format_of(path) == "PNG":
        return {"pnginfo": _png_info(record)}
    return {"exif": _exif(record)}


def record_in(image: Image) -> dict[str, Any] | None:
    """The record a decoded picture holds, None where there is none. Raises DamagedRecord."""
    text = image.info.get(KEY)
    if isinstance(text, str):
        return _parsed(text)
    try:
        comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
    except Exception:  # Pillow raises all kinds of errors for broken EXIF, which cannot hold a record of ours
        return None
    if not isinstance(comment, bytes) or f'"{KEY}"'.encode() not in comment:
        return None
    return _parsed(comment.removeprefix(ASCII).decode("ascii", "replace"))


def _parsed(text: str) -> dict[str, Any]:
    try:
        record = parse_json(text)
    except InputError as error:
        raise DamagedRecord(str(error)) from None
    if not isinstance(record, dict):
        raise DamagedRecord("it is not a JSON object")
    return record


def _comment(record: dict[str, Any]) -> bytes:
    return ASCII + json.dumps(record).encode("ascii")


def _exif(record: dict[str, Any]) -> bytes:
    from PIL import Image as pil

    exif = pil.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = _comment(record)
    return exif.tobytes()


def _png_info(record: dict[str, Any]):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(KEY, json_line(record))
    return info

"""Reads text and JSON files that a user wrote: UTF-8, or as their byte order mark says; errors name file and place."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bagel_rt.errors import BagelError, InputError

MARKS = (  # byte order marks that editors and PowerShell put in front of a text; longer ones first, as they begin alike
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# halves of surrogate pairs, which UTF-8 cannot store, and characters that other programs take for the end of a line
UNSAFE_IN_LINES = re.compile("[\ud800-\udfff\u0085\u2028\u2029]")


def read_text(path: Path, error: type[BagelError] = InputError) -> str:
    """The file's text, as UTF-8 or as its byte order mark says, without the mark. Raises `error` naming the file.

    Lines end with "\\n" or "\\r\\n" as stored: split them by "\\n", a prompt may hold U+2028 and other ends of lines.
    """
    return decoded(path, read_bytes(path, error), error)


def read_bytes(path: Path, error: type[BagelError] = InputError) -> bytes:
    """A file's bytes. Raises `error` naming the file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise error(f"{path}: file not found") from None
    except OSError as seen:
        raise error(f"{path}: not readable: {seen.strerror}") from None


def decoded(path: Path, data: bytes, error: type[BagelError] = InputError) -> str:
    """The text that a file's bytes are, as read_text."""
    try:
        return data.decode(_encoding(data))
    except UnicodeDecodeError as seen:
        raise error(f"{path}: not readable as text: {seen}; save it as UTF-8") from None


def read_prompt(path: Path) -> str:
    """A prompt that is a file's whole text, without the line end that editors put behind the last line."""
    text = read_text(path)
    return text.removesuffix("\n").removesuffix("\r")


def has_mark(path: Path) -> bool:
    """Whether a file begins with a byte order mark."""
    with path.open("rb") as stream:
        return _encoding(stream.read(4)) != "utf-8"


def _encoding(data: bytes) -> str:
    return next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")


def read_json(path: Path, error: type[BagelError] = InputError, hint: str = "") -> Any:
    """A JSON file's value. Raises `error` naming the file and where it breaks; `hint` says what to do then."""
    return json_of(path, read_bytes(path, error), error, hint)


def json_of(path: Path, data: bytes, error: type[BagelError] = InputError, hint: str = "") -> Any:
    """The value that the bytes of a JSON file are, as read_json."""
    text = decoded(path, data, error)
    try:
        return parse_json(text)
    except InputError as seen:
        raise error(f"{path}: not readable as JSON: {seen}{hint}") from None


def parse_json(text: str, pairs: Callable[[list], Any] | None = None) -> Any:
    """The value of a JSON text. Raises InputError, in words, for whatever Python's reader raises."""
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as seen:
        line = f"line {seen.lineno}, " if "\n" in text else ""
        raise InputError(f"{seen.msg} at {line}character {seen.colno}") from None
    except InputError:
        raise
    except RecursionError:
        raise InputError("brackets are nested too deeply") from None
    except ValueError:  # int() refuses numbers of more than some thousand digits
        raise InputError("a number has thousands of digits") from None


def json_line(value: Any) -> str:
    """The value as JSON on one line that every program reads as one line, and that can be written as UTF-8."""
    text = json.dumps(value, ensure_ascii=False)
    return UNSAFE_IN_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

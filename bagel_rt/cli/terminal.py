"""Terminals and pipes that are not UTF-8."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from typing import Any

from bagel_rt.errors import InputError

BYTES = re.compile("[\udc80-\udcff]")  # what Python makes of bytes that are no characters here (surrogateescape)


def escape_what_cannot_be_shown() -> None:
    """Characters that stdout and stderr have no way to write come out as \\xNN, \\uNNNN; nothing ends because of them.

    Bytes on stdin that are no characters are kept, so that a file's name may be made of them.
    """
    for stream, errors in (
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
        (sys.stdin, "surrogateescape"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError):  # closed
                stream.reconfigure(errors=errors)


def words(text: str, encoding: str | None = None) -> str:
    """A text that was typed, or given as an argument, where its character set has none of its characters: as UTF-8.

    encoding: what its bytes were read as; None is what arguments are read as. Raises InputError for bytes that are no
    UTF-8 either. Paths stay as they are: the system takes their bytes back.
    """
    if not BYTES.search(text):
        return text
    encoding = encoding or sys.getfilesystemencoding()
    try:
        return text.encode(encoding, "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise InputError(
            f"the text {text!a} holds bytes that are neither {encoding} nor UTF-8; type it in one of them, or put it"
            " into a batch's file"
        ) from None


def print_json(value: Any) -> None:
    """Print JSON that reads back whatever the terminal's character set is."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:  # escapes of JSON's own
        text = json.dumps(value, indent=1)
    print(text)

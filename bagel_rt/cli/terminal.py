"""Terminals and pipes that are not UTF-8."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any


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


def print_json(value: Any) -> None:
    """Print JSON that reads back whatever the terminal's character set is."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:  # escapes of JSON's own
        text = json.dumps(value, indent=1)
    print(text)

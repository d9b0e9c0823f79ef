"""Paths as people give them, where no shell has read them first."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

from bagel_rt.errors import InputError

WINDOWS = os.name == "nt"
# what a terminal puts around the name of a file that is dropped on it: quotes, or a backslash before what a shell reads
QUOTED = re.compile(r"""^(['"]).*\1$|\\[^\w\\]""", re.DOTALL)


def typed_path(given: Any, base: Path = Path()) -> Path:
    """A path as somebody typed it, or dropped it on a terminal: `~`, quotes and backslash escapes are read.

    What is there under the name as it stands, seen from the folder `base`, is taken as it stands; so are names with an
    apostrophe or spaces in them. Raises InputError for what is no path.
    """
    if not isinstance(given, str | os.PathLike) or isinstance(text := os.fspath(given), bytes):
        raise InputError(f"a path is a str or a pathlib.Path, not {type(given).__name__}: {given!r}")
    if "\0" in text:
        raise InputError(f"{text!r} is no path: it holds a NUL character")
    if os.path.lexists(base / text):
        return Path(text)
    return _at_home(Path(_unquoted(text) if isinstance(given, str) else text))


def _unquoted(text: str) -> str:
    """What a shell would make of the text where it makes one word of it and somebody meant that."""
    if WINDOWS:  # a backslash stands between folders there
        return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text
    if not QUOTED.search(text):
        return text
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe, not a quote
        return text
    return words[0] if len(words) == 1 else text


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # nobody of that name has a home here
        return path

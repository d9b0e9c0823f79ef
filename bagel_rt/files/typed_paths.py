"""Reads paths that a user typed or dropped into a prompt, where no shell has expanded `~` or removed quotes."""

from __future__ import annotations

import errno
import os
import re
import shlex
from pathlib import Path
from typing import Any

from bagel_rt.errors import InputError

WINDOWS = os.name == "nt"
LONGEST = 255  # characters of a path that a message shows whole
# a file dropped on a terminal arrives in quotes, or with a backslash before each character that a shell would interpret
QUOTED = re.compile(r"""^(['"]).*\1$|\\[^\w\\]""", re.DOTALL)
# why the system cannot even look whether something is there; that nothing is there is for the caller to say
UNSEEN = {
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.ELOOP: "its links lead in a circle",
    errno.EACCES: "there is no leave to look there",
}


def typed_path(given: Any, base: Path = Path()) -> Path:
    """A path as somebody typed it, or dropped it on a terminal: `~`, quotes and backslash escapes are read.

    If a file of exactly the given name exists, relative to the folder `base`, that is meant, quotes and all. Names with
    an apostrophe or spaces in them are not changed either. Raises InputError for what is no path, or one that the
    system cannot look at, so that callers may ask what lies there.
    """
    if not isinstance(given, str | os.PathLike) or isinstance(text := os.fspath(given), bytes):
        raise InputError(f"a path is a str or a pathlib.Path, not {type(given).__name__}: {given!r}")
    if "\0" in text:
        raise InputError(f"{text!r} is no path: it holds a NUL character")
    there = os.path.lexists(base / text)
    path = Path(text) if there else _at_home(Path(_unquoted(text) if isinstance(given, str) else text))
    _check_seen(base / path)
    return path


def _check_seen(path: Path) -> None:
    try:
        path.stat()
    except UnicodeEncodeError:
        raise InputError(f"{cut(path)}: the name cannot be spelled in this system's character set") from None
    except OSError as error:
        if (why := UNSEEN.get(error.errno or 0)) is not None:
            raise InputError(f"{cut(path)}: {why}") from None


def cut(path: Path) -> str:
    """A path for a message: its middle is left out where it is longer than systems take."""
    text = str(path)
    return text if len(text) <= LONGEST else f"{text[:80]}...{text[-20:]} ({len(text)} characters)"


def _unquoted(text: str) -> str:
    """The text without its quotes and backslashes, if a shell would read it as one word; else the text itself."""
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
    except RuntimeError:  # `~name` of a user that does not exist
        return path

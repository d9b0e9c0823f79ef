"""Finds the name that a misspelled one was probably meant to be, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Words for a message, after what was seen; none where no known name is like it."""
    near = nearest(name, known)
    return f"; did you mean {near}?" if near else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant: one that begins like it, else the most alike; None where none is."""
    known = sorted(known, key=len)
    begun = next((one for one in known if one.startswith(name)), None)
    return begun or next(iter(difflib.get_close_matches(name, known, 1)), None)

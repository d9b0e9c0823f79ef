"""Remarks on calls that are carried out, and may not do what the caller expects: Python warnings of a category of their
own, BagelWarning."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_HOME = str(Path(__file__).parent)


class BagelWarning(UserWarning):
    """A call that is done as asked, and perhaps not as meant: an option without effect, a value that was bounded."""


def remark(text: str) -> None:
    """Warn whoever called bagel_rt. The command line shows the text as a note."""
    warnings.warn(text, BagelWarning, stacklevel=_callers_level())


def _callers_level() -> int:
    """How many frames above remark() the first one outside of this package is."""
    frame, level = sys._getframe(2), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HOME):
        frame, level = frame.f_back, level + 1
    return level

"""Memory that was freed goes back to the system: C libraries keep it for later, and a large graph leaves much."""

from __future__ import annotations

import ctypes
import sys


def trim() -> None:
    """Hand free heap back. Only glibc keeps it and can be asked; elsewhere nothing is done."""
    if not sys.platform.startswith("linux"):
        return
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in musl
    if malloc_trim is not None:
        malloc_trim(0)

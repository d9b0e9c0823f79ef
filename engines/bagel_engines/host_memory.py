"""Returns freed memory to the operating system: the C library keeps it for later use, gigabytes after a large graph."""

from __future__ import annotations

import ctypes
import sys


def trim() -> None:
    """Return the heap's free memory to the system, by glibc's malloc_trim; does nothing with other C libraries."""
    if not sys.platform.startswith("linux"):
        return
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in musl
    if malloc_trim is not None:
        malloc_trim(0)

"""A forked child inherits an engine without its threads, and the engine's destructors would wait for them for ever.

So in a child, what an engine made is never destroyed: the memory is the parent's, shared until somebody writes to it.
"""

from __future__ import annotations

import ctypes
import os
from typing import TypeVar
from weakref import WeakSet

Made = TypeVar("Made")
_living: WeakSet = WeakSet()


def kept_in_children(made: Made) -> Made:
    """Mark what would hang when it is destroyed in a forked child."""
    _living.add(made)
    return made


def _keep() -> None:
    for made in list(_living):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))  # a reference that nobody gives back


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep)

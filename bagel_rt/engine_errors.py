"""Turns the engines' exceptions into this package's own: bagel_engines does not know bagel_rt.errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bagel_engines import EngineFailure, OutOfDeviceMemory
from bagel_rt.errors import EngineError, OutOfDeviceMemoryError


@contextmanager
def named_failures() -> Iterator[None]:
    """An engine's failure inside becomes an EngineError, too little device memory an OutOfDeviceMemoryError."""
    try:
        yield
    except OutOfDeviceMemory as error:
        raise OutOfDeviceMemoryError(str(error)) from error
    except EngineFailure as error:
        raise EngineError(str(error)) from error

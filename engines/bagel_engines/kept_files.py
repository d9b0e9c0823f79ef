"""What stores of an engine's files have in common: what the disk refuses them is an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bagel_engines.protocol import EngineFailure


@contextmanager
def explained(what: str, folder: Path, advice: str) -> Iterator[None]:
    """Within the block the system's errors become an EngineFailure: `what` cannot be kept in a folder, and advice."""
    try:
        yield
    except OSError as error:
        raise EngineFailure(f"{what} cannot be kept in {folder}: {error.strerror or error}; {advice}") from error

"""A disk that refuses one chosen thing: every call of bagel_engines.disk is counted, and the chosen one fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bagel_engines import disk

KILLED = 137


@dataclass
class FailingDisk:
    """at: which call fails, counted from 0, or None. how: an errno, or "kill" to end the process there."""

    at: int | None = None
    how: int | str = errno.ENOSPC
    calls: list[tuple[str, Path]] = field(default_factory=list)

    def attempted(self, what: str, path: Path, act: Callable[[], Any]) -> Any:
        self.calls.append((what, path))
        if len(self.calls) - 1 != self.at:
            return act()
        if what == "write":
            before = path.stat().st_size if path.is_file() else 0
            act()
            _cut(path, before)
        if self.how == "kill":
            os._exit(KILLED)
        assert isinstance(self.how, int)
        raise OSError(self.how, os.strerror(self.how), str(path))

    @property
    def failed(self) -> str:
        """What the refused call was."""
        return self.calls[self.at][0] if self.at is not None and self.at < len(self.calls) else ""


def _cut(path: Path, before: int) -> None:
    """Half of what was written is there: as a full disk leaves it."""
    if path.is_file():
        os.truncate(path, (before + path.stat().st_size) // 2)


def telling(calls: list[tuple[str, Path]]) -> list[int]:
    """Of the many writes to one file, and of its mappings, the first and the last; of everything else each."""
    often: dict[tuple[str, Path], list[int]] = {}
    for i, call in enumerate(calls):
        often.setdefault(call, []).append(i)
    ends = {i for found in often.values() for i in (found[0], found[-1])}
    return [i for i, (what, _) in enumerate(calls) if i in ends or what not in ("write", "map")]


def use(monkeypatch: Any, faulty: FailingDisk) -> None:
    monkeypatch.setattr(disk, "attempted", faulty.attempted)

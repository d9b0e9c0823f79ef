"""Ctrl-C that is not lost: KeyboardInterrupt raised inside a library's callback may be swallowed by the library."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Interrupts:
    """Within the `with` block Ctrl-C raises KeyboardInterrupt as usual, and check() raises it again if it got lost."""

    def __init__(self) -> None:
        self._seen, self._before = False, None

    def __enter__(self) -> Interrupts:
        self._before: Any = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        if self._seen:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._seen = True
        raise KeyboardInterrupt

"""Ends a text exactly where it has written one of some strings, wherever its tokens' borders are."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Takes a text in pieces and gives out what may be shown: nothing of a stop string, nor of what may become one."""

    def __init__(self, strings: Sequence[str]):
        self._strings = sorted(strings, key=len, reverse=True)  # of two that begin together, the longer
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """The text that one more piece makes certain; "" once a string was found."""
        if self.found is not None:
            return ""
        self._held += piece
        met = [(self._held.index(one), -len(one), one) for one in self._strings if one in self._held]
        if met:
            at, _, self.found = min(met)
            return self._take(at)
        return self._take(len(self._held) - self._beginning())

    def finish(self) -> str:
        """What was held back, once no more pieces come."""
        return "" if self.found is not None else self._take(len(self._held))

    def _take(self, count: int) -> str:
        ready, self._held = self._held[:count], self._held[count:]
        return ready

    def _beginning(self) -> int:
        """Length of the longest end of what is held that begins a string."""
        longest = max(map(len, self._strings), default=1) - 1
        lengths = range(min(longest, len(self._held)), 0, -1)
        return next((n for n in lengths if any(one.startswith(self._held[-n:]) for one in self._strings)), 0)

"""Which runs are to be recorded: those a caller marks, of graphs that were not refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class MarkedRuns:
    """Of one engine. tell: called with a remark for the engine's info whenever it changes."""

    def __init__(self, tell: Callable[[str], None]):
        self._tell, self._marked = tell, 0
        self._refused: dict[str, str] = {}
        tell("CUDA graphs")

    def active(self, graph: str) -> bool:
        """Whether runs of this graph are marked now and can be recorded, as far as is known."""
        return self._marked > 0 and graph not in self._refused

    @contextmanager
    def marked(self) -> Iterator[None]:
        """Runs inside are marked."""
        self._marked += 1
        try:
            yield
        finally:
            self._marked -= 1

    def refuse(self, graph: str, why: str) -> None:
        """From here on no run of this graph is recorded."""
        self._refused[graph] = why
        refusals = "; ".join(f"{name}: {reason}" for name, reason in self._refused.items())
        self._tell(f"CUDA graphs, but not of {refusals}")

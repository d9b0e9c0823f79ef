"""What TensorRT's logger says of errors, kept for our own messages: alone it goes to stderr."""

from __future__ import annotations

from collections import deque
from typing import Any

KEPT = 50  # lines
TOLD = 3  # of them in a message
SILENT = "it gave no reason"


def collected(trt: Any) -> Any:
    """A logger (a trt.ILogger) with `first` and `last`, the lines to be told of those since `clear`."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: deque[str] = deque(maxlen=KEPT)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.lines.append(text.strip())

        def clear(self) -> None:
            self.lines.clear()

        @property
        def first(self) -> str:
            return "; ".join(list(self.lines)[:TOLD]) or SILENT

        @property
        def last(self) -> str:
            return "; ".join(list(self.lines)[-TOLD:]) or SILENT

    return Log()

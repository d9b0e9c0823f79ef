"""Work that has to be done in one thread, whoever asks for it.

ONNX Runtime keeps what it captured as CUDA graphs for each thread: in another it would capture anew.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait


class OneThread:
    """The thread begins with the first work, and ends with `close` or the program."""

    def __init__(self, name: str):
        self._name = name
        self._thread: ThreadPoolExecutor | None = None

    def __call__(self, work: Callable[[], None]) -> None:
        """Do it, and raise what it raises. Whoever is interrupted while waiting waits on until it is done: work must
        not go on beside what comes next."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, self._name)
        done = self._thread.submit(work)
        try:
            done.result()
        except BaseException:
            wait([done])
            raise

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

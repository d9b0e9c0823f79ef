"""Progress bars on stderr, silent where nobody watches."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from tqdm import tqdm


class Bars:
    """One bar per stage, made from events with stage, done and total; used in a `with` block."""

    def __init__(self, bytes_in: tuple[str, ...] = ()):
        self._bytes_in, self._stage, self._bar, self._detail = bytes_in, None, None, ""

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def __call__(self, event: Any) -> None:
        if event.stage != self._stage:
            self._close()
            in_bytes = event.stage in self._bytes_in
            self._stage = event.stage
            self._bar = tqdm(  # disable=None: no bar when stderr is not a terminal
                total=event.total, desc=event.stage, unit="B" if in_bytes else "", unit_scale=in_bytes, disable=None
            )
        assert self._bar is not None
        detail = getattr(event, "detail", "")
        if detail != self._detail:
            self._detail = detail
            self._bar.set_postfix_str(detail)
        self._bar.update(event.done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._stage, self._detail = None, None, ""

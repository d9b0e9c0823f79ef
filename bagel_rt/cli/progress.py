"""Progress on stderr: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from types import TracebackType
from typing import Any

from tqdm import tqdm

from bagel_rt.events import Done, Event, ImageReady, TextPiece

QUIET = 10.0  # seconds between two lines where stderr is no terminal: short work says nothing


class Bars:
    """Shows events with stage, done and total: a bar per stage on a terminal, elsewhere a line now and then.

    Used in a `with` block.
    """

    def __init__(self, bytes_in: tuple[str, ...] = ()):
        """bytes_in: how the stages begin that count bytes."""
        self._bytes_in, self._stage, self._bar, self._detail = bytes_in, None, None, ""
        self._spoke = time.monotonic()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __call__(self, event: Any) -> None:
        if sys.stderr.isatty():
            self._move_bar(event)
        elif time.monotonic() - self._spoke >= QUIET:
            self._spoke = time.monotonic()
            print(f"bagel-rt: {self._line(event)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the current bar; the next event begins another."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._stage, self._detail = None, None, ""

    def _move_bar(self, event: Any) -> None:
        if event.stage != self._stage:
            self.close()
            in_bytes = event.stage.startswith(self._bytes_in)
            self._stage = event.stage
            self._bar = tqdm(
                total=event.total, desc=event.stage, unit="B" if in_bytes else "", unit_scale=in_bytes, disable=None
            )
        assert self._bar is not None
        detail = getattr(event, "detail", "")
        if detail != self._detail:
            self._detail = detail
            self._bar.set_postfix_str(detail)
        self._bar.update(event.done - self._bar.n)

    def _line(self, event: Any) -> str:
        done, total = event.done, event.total
        count = (
            f"{done / 2**20:.0f} of {total / 2**20:.0f} MiB"
            if event.stage.startswith(self._bytes_in)
            else f"{done}/{total}"
        )
        detail = getattr(event, "detail", "")
        return f"{event.stage} {count}" + (f", {detail}" if detail else "")


def loading() -> Callable[[Any], None]:
    """For the `on_progress` of load: a bar of bytes for each graph whose weights are brought to a device."""
    bars = Bars(bytes_in=("loading",))

    def told(event: Any) -> None:
        bars(event)
        if event.done >= event.total:
            bars.close()

    return told


def show(events: Generator[Event, None, None], on_image: Callable[[ImageReady], object] | None = None) -> Any:
    """Read a stream to its end and return its result: text is printed as it comes, the rest becomes bars."""
    writing = False
    with closing(events), Bars() as bars:
        for event in events:
            if writing and not isinstance(event, TextPiece):
                print()
                writing = False
            match event:
                case TextPiece():
                    print(event.text, end="", flush=True)
                    writing = True
                case Done():
                    return event.result
                case ImageReady():
                    bars.close()
                    if on_image is not None:
                        on_image(event)
                case _:
                    bars(event)
    raise AssertionError("a stream ends with Done")

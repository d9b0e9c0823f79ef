"""What the library remarks on, as lines of the command line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from bagel_rt.remarks import BagelWarning


@contextmanager
def notes() -> Iterator[None]:
    """Within the block every remark becomes one line on stderr, however often it is made; other warnings stay."""
    told: set[str] = set()

    def tell(message, category, *where) -> None:
        if not issubclass(category, BagelWarning):
            others(message, category, *where)
        elif str(message) not in told:
            told.add(str(message))
            print(f"bagel-rt: note: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", BagelWarning)
        others, warnings.showwarning = warnings.showwarning, tell
        try:
            yield
        finally:
            warnings.showwarning = others

"""What the targets keep open goes with the file of tests that used it."""

from __future__ import annotations

from collections.abc import Iterator

import fuzz_targets
import pytest


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    yield
    fuzz_targets.closed()

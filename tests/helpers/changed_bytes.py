"""What comes from strangers, changed at random for some seconds: it is read, or refused with an error of ours."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from fuzz_targets import TARGETS
from mutated import endless

LEAST, MOST = 2.0, 30.0  # seconds of a target
# in two files, so that two workers have half each
SENT = ("picture", "picture_record", "batch", "style", "http_json", "http_form")
OF_MODELS = tuple(name for name in TARGETS if name not in SENT)


def seconds(still: int) -> float:
    """Of each of the targets that are still to come: BAGEL_RT_FUZZ_SECONDS; or, where the run has an end
    (BAGEL_RT_TESTS_UNTIL, seconds since 1970), what is left of it for each, from 2 to 30; or 2."""
    if given := os.environ.get("BAGEL_RT_FUZZ_SECONDS"):
        return float(given)
    left = float(os.environ.get("BAGEL_RT_TESTS_UNTIL", "0")) - time.time()
    return min(MOST, max(LEAST, left / still))


def check(name: str, tmp_path: Path, still: int) -> None:
    target, seed = TARGETS[name], random.randrange(1 << 30)
    ends = time.monotonic() + seconds(still)
    for n, data in enumerate(endless(target.seeds(), random.Random(seed))):
        if time.monotonic() > ends:
            break
        try:
            target(data)
        except Exception:
            (tmp_path / "found").write_bytes(data)
            pytest.fail(f"seed {seed}, number {n}, kept as {tmp_path / 'found'}: {data[:300]!r}")
    assert n > 3

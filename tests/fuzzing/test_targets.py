"""What comes from strangers, changed at random, is read or refused with an error of ours: a few seconds of each."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import fuzz_targets
import pytest
from fuzz_targets import TARGETS
from mutated import endless

SECONDS = float(os.environ.get("BAGEL_RT_FUZZ_SECONDS", "2"))  # of each target
FOUND = Path(__file__).with_name("found")  # by target: what once was neither read nor refused


@pytest.fixture(scope="module", autouse=True)
def ended():
    yield
    fuzz_targets.closed()


@pytest.mark.parametrize("name", TARGETS)
def test_of_every_target_something_is_read_and_something_refused(name):
    target = TARGETS[name]
    outcomes = {target(data) for data in (*target.seeds(), b"", b"\xff\xff")}
    assert outcomes == ({True, False} if name not in REFUSED_ALWAYS else {False})


REFUSED_ALWAYS = {"signature", "http_form"}  # no key fits; the server's model draws nothing


@pytest.mark.parametrize("file", [pytest.param(f, id=f"{f.parent.name}/{f.name}") for f in sorted(FOUND.glob("*/*"))])
def test_what_was_found_once_is_read_or_refused_now(file):
    TARGETS[file.parent.name](file.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_changed_bytes_are_read_or_refused_with_an_error_of_ours(name, tmp_path):
    target, seed = TARGETS[name], random.randrange(1 << 30)
    ends = time.monotonic() + SECONDS
    for n, data in enumerate(endless(target.seeds(), random.Random(seed))):
        if time.monotonic() > ends:
            break
        try:
            target(data)
        except Exception:
            (tmp_path / "found").write_bytes(data)
            pytest.fail(f"seed {seed}, number {n}, kept as {tmp_path / 'found'}: {data[:300]!r}")
    assert n > 3

"""Of what comes from strangers something is read and something refused; and what once was neither."""

from __future__ import annotations

from pathlib import Path

import changed_bytes
import pytest
from fuzz_targets import TARGETS

FOUND = Path(__file__).with_name("found")  # by target: what once was neither read nor refused


@pytest.mark.parametrize("name", TARGETS)
def test_of_every_target_something_is_read_and_something_refused(name):
    target = TARGETS[name]
    outcomes = {target(data) for data in (*target.seeds(), b"", b"\xff\xff")}
    assert outcomes == ({True, False} if name not in REFUSED_ALWAYS else {False})


REFUSED_ALWAYS = {"signature", "http_form"}  # no key fits; the server's model draws nothing


@pytest.mark.parametrize("file", [pytest.param(f, id=f"{f.parent.name}/{f.name}") for f in sorted(FOUND.glob("*/*"))])
def test_what_was_found_once_is_read_or_refused_now(file):
    TARGETS[file.parent.name](file.read_bytes())


def test_a_target_gets_what_is_left_of_the_run_and_two_seconds_at_least(monkeypatch):
    monkeypatch.setattr(changed_bytes.time, "time", lambda: 1000.0)
    monkeypatch.delenv("BAGEL_RT_FUZZ_SECONDS", raising=False)
    found = []
    for until in (None, "900", "1040", "9000"):
        monkeypatch.delenv("BAGEL_RT_TESTS_UNTIL", raising=False)
        if until:
            monkeypatch.setenv("BAGEL_RT_TESTS_UNTIL", until)
        found.append(changed_bytes.seconds(4))
    assert found == [2, 2, 10, 30]
    monkeypatch.setenv("BAGEL_RT_FUZZ_SECONDS", "0.5")
    assert changed_bytes.seconds(4) == 0.5

"""What callers send, changed at random, is read or refused with an error of ours."""

from __future__ import annotations

import changed_bytes
import pytest
from changed_bytes import SENT


@pytest.mark.parametrize("name", SENT)
def test_changed_bytes_are_read_or_refused_with_an_error_of_ours(name, tmp_path):
    changed_bytes.check(name, tmp_path, still=len(SENT) - SENT.index(name))

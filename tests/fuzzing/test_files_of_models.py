"""Files of models from strangers, changed at random, is read or refused with an error of ours."""

from __future__ import annotations

import changed_bytes
import pytest
from changed_bytes import OF_MODELS


@pytest.mark.parametrize("name", OF_MODELS)
def test_changed_bytes_are_read_or_refused_with_an_error_of_ours(name, tmp_path):
    changed_bytes.check(name, tmp_path, still=len(OF_MODELS) - OF_MODELS.index(name))

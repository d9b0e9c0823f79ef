"""A number format may be spelled either way wherever a precision or an arithmetic is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bagel_rt.artefact.precision import ARITHMETICS, meaning, spelled_out


@pytest.mark.parametrize("short, long", ARITHMETICS.items())
def test_short_and_long_names_mean_the_same(short, long):
    assert meaning(short) == meaning(long)
    assert replace(meaning("int8", short), stated="") == replace(meaning("int8", long), stated="")
    assert spelled_out(short) == spelled_out(long) == long


def test_other_names_are_left_as_they_are():
    assert (spelled_out(None), spelled_out("int8")) == (None, "int8")

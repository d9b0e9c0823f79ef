"""Stop strings: exact wherever the pieces' borders are."""

from __future__ import annotations

import itertools

import pytest

from bagel_rt.inputs.stop_strings import StopStrings

WHOLE = "ab<x><stop>cd"


def pieces(text: str, borders: tuple[int, ...]) -> list[str]:
    at = [0, *borders, len(text)]
    return [text[a:b] for a, b in itertools.pairwise(at)]


@pytest.mark.parametrize("count", range(4))
def test_nothing_of_a_stop_string_leaks_wherever_it_is_cut(count):
    for borders in itertools.combinations(range(1, len(WHOLE)), count):
        stops = StopStrings(["<stop>", "never"])
        shown = [stops.push(piece) for piece in pieces(WHOLE, borders)]
        assert "".join(shown) == "ab<x>"
        assert stops.found == "<stop>"
        assert stops.finish() == ""


def test_what_only_begins_like_a_stop_string_is_shown_in_the_end():
    stops = StopStrings(["<stop>"])
    assert [stops.push("a<s"), stops.push("to"), stops.finish()] == ["a", "", "<sto"]
    assert stops.found is None


def test_the_first_of_several_ends_the_text_and_without_any_nothing_is_held_back():
    stops = StopStrings(["two", "one"])
    assert stops.push("0 one two") == "0 "
    assert stops.found == "one"
    assert StopStrings([]).push("text") == "text"

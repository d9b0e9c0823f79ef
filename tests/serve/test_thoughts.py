"""Thoughts and answers are told apart, however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagel_rt.serve.thoughts import Thoughts, told_apart

THOUGHTFUL = "<think>\nIt is round, <b>red</b>.\n</think>\n\nred"


def in_pieces(text: str, cuts: list[int]) -> tuple[str, str]:
    thoughts, ends = Thoughts(), [*sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    told = [thoughts.push(piece) for piece in pieces] + [thoughts.push("", last=True)]
    return "".join(one for one, _ in told), "".join(other for _, other in told)


@given(st.lists(st.integers(0, len(THOUGHTFUL)), max_size=8))
@settings(max_examples=60)
def test_a_text_cut_anywhere_is_told_apart_alike(cuts):
    assert in_pieces(THOUGHTFUL, cuts) == ("It is round, <b>red</b>.\n", "red")


@pytest.mark.parametrize("text", ["red", "", "<b>red</b>", "<thin", " red <think>x</think>"])
def test_a_text_without_a_thought_is_said_from_its_beginning(text):
    assert in_pieces(text, [1, 2]) == ("", text)
    assert told_apart(text) == (None, text)


def test_a_thought_that_never_ends_is_a_thought():
    assert told_apart("<think>so and") == ("so and", "")

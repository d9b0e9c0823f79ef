"""Token ids to readable pieces: no split character, no half marker, and together exactly the official text."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bagel_rt.inputs.detokenizer import TextPieces

PARTS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|im_",
    "<",
    "|",
    "im_end",
    "|>",
    "a",
    " b",
    "树",
    "🙂",
    "\n",
]


@pytest.fixture
def codec(small_bagel):
    return small_bagel._turns.codec


def pieces(codec, ids) -> list[str]:
    reader = TextPieces(codec)
    return [*(reader.push(token) for token in ids), reader.finish()]


def letter_by_letter(codec, text: str) -> list[int]:
    """The ids of a text encoded letter by letter, so that no marker in it becomes one token."""
    return [token for letter in text for token in codec.segment(letter)[1:-1]]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 271), max_size=40))
def test_any_tokens_in_pieces_are_the_official_text(codec, ids):
    ids = [codec.im_start, *ids]
    assert "".join(pieces(codec, ids)) == codec.text(ids)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PARTS), max_size=8))
def test_markers_spelt_out_letter_by_letter_end_the_text_too(codec, parts):
    ids = [codec.im_start, *letter_by_letter(codec, "".join(parts))]
    assert "".join(pieces(codec, ids)) == codec.text(ids)


def test_a_character_of_several_tokens_comes_whole(codec):
    ids = codec.segment("ein 树 🙂")[:-1]
    got = pieces(codec, ids)
    assert len([p for p in got if p]) == len("ein 树 🙂")
    assert "".join(got) == "ein 树 🙂"


def test_nothing_after_the_end_is_read(codec):
    assert pieces(codec, [*codec.segment("ab"), *codec.segment("cd")]) == ["", "a", "b", "", "", "", "", "", ""]
    assert pieces(codec, []) == [""]

"""What the score asks of pictures and sentences as people make them: held-out ones, the same every time.

The scenes are combinations kept out of training, the pictures another renderer's (bench.nano.people), and no sentence
of these is one that training may say (bench.nano.wording).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from bench.nano import wording, words
from bench.nano.cases import (
    ASK_WRITTEN,
    ASKED,
    COUNTS,
    DRAWING,
    EDIT_WRITTEN,
    EDITED,
    HELD_OUT,
    UNKNOWN,
    WRITTEN,
    Case,
    Half,
    Say,
    different,
    drawing_wish,
    edits,
    questions,
)
from bench.nano.forms import varied
from bench.nano.world import SHAPES, Scene, Wish


def people_cases(half: Half = HELD_OUT) -> list[Case]:
    def drawn(rng: random.Random) -> Scene:
        return _drawn(half, rng)

    return [
        *edits(EDITED, half, drawn),
        *questions(ASKED, half, drawn),
        *_prompts(half),
        *edits(EDIT_WRITTEN, half, half.scene, _said(half)),
        *questions(ASK_WRITTEN, half, half.scene, _said(half)),
        *_unknown(half),
    ]


def _drawn(half: Half, rng: random.Random) -> Scene:
    """A scene as people draw it, or as training does; never drawn plainly."""
    hand = "people" if half.kept else "varied"
    while (scene := varied(half.scene(rng), rng, hand)).manner is None:
        pass
    return scene


def _said(half: Half) -> Say:
    """Plain sentences as people write them, of the half's."""

    def say(text: str, rng: random.Random) -> str | None:
        other = wording.as_people(text, rng, held_out=half.kept)
        return None if other == text else other

    return say


def _prompts(half: Half) -> Iterator[Case]:
    rng, say = half.rng(WRITTEN), _said(half)

    def make() -> tuple[str, Wish]:
        while True:
            wish = half.wish(lambda: drawing_wish(rng.choice(DRAWING), rng))
            if (text := say(words.prompt(wish, rng), rng)) is not None:
                return text, wish

    for i, (text, wish) in enumerate(different(make, COUNTS[WRITTEN])):
        assert isinstance(wish, Wish)
        yield Case(WRITTEN, text, i, wish=wish)


def _unknown(half: Half) -> Iterator[Case]:
    rng = half.rng(UNKNOWN)
    for i in range(COUNTS[UNKNOWN]):
        question = wording.about_unknown(rng.choice(SHAPES), rng, held_out=half.kept)
        yield Case(UNKNOWN, question, i, scene=half.scene(rng), answer=wording.NOT_KNOWN)

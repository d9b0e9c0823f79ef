"""What the score asks: held-out prompts, edits, questions and riddles, the same ones every time."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.nano import words
from bench.nano.tasks import (
    CAPTION_QUESTION,
    Edit,
    any_edit,
    any_question,
    any_riddle,
    any_wish,
    caption,
    caption_order,
    some,
    two_kinds,
)
from bench.nano.world import (
    BACKGROUNDS,
    COLOURS,
    MOST,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    Wish,
    realise,
    scene_held_out,
    wish_held_out,
)

DRAWING = ("single object", "two objects", "counting", "colours", "position", "colour attribution")
AIMS = {
    "single object": 0.97,
    "two objects": 0.85,
    "counting": 0.75,
    "colours": 0.93,
    "position": 0.75,
    "colour attribution": 0.75,
    "questions": 0.90,
    "edits": 0.70,
}
COUNTS = {"questions": 200, "captions": 50, "edits": 120, "riddles, thinking": 100, "riddles, not thinking": 100}
PER_CATEGORY, CHINESE = 100, 60
TRIES = 400  # draws for a prompt not asked before; some categories have few held-out ones, then seeds differ


@dataclass(frozen=True)
class Case:
    """One thing to ask. What is right depends on what is set: a wish, an edit, or an answer."""

    category: str
    prompt: str
    seed: int
    wish: Wish | None = None
    edit: Edit | None = None
    scene: Scene | None = None
    answer: str | None = None
    think: bool = False


def all_cases() -> list[Case]:
    return [
        *(c for category in DRAWING for c in _drawings(category, PER_CATEGORY)),
        *_chinese(),
        *_edits(),
        *_questions(),
        *_captions(),
        *_riddles(),
    ]


def _wish(category: str, rng: random.Random) -> Wish:
    background = some(rng, 0.4, BACKGROUNDS)
    shape, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
    if category == "single object":
        return Wish((Thing(shape, None, some(rng, 0.4, SIZES)),), None, background)
    if category == "colours":
        return Wish((Thing(shape, colour, some(rng, 0.3, SIZES)),), None, background)
    if category == "counting":
        return Wish((Thing(shape, some(rng, 0.5, COLOURS)),) * rng.randint(2, MOST), None, background)
    pair = two_kinds(rng, colour=1.0, size=0.0)
    if category == "colour attribution":
        return Wish(pair, None, background)
    plain = tuple(Thing(s) for s in rng.sample(SHAPES, 2))
    if category == "two objects":
        return Wish(plain, None, background)
    return Wish(pair if rng.random() < 0.5 else plain, rng.choice(list(RELATIONS)), background)


def _different(make: Callable[[], tuple[str, object]], count: int) -> Iterator[tuple[str, object]]:
    """Yield `count` results of make(), each different from the earlier ones where one is found in TRIES draws."""
    seen: set[str] = set()
    for _ in range(count):
        for _ in range(TRIES):
            text, made = make()
            if text not in seen:
                break
        seen.add(text)
        yield text, made


def _drawings(category: str, count: int) -> Iterator[Case]:
    rng = _rng(category)

    def make() -> tuple[str, Wish]:
        while not wish_held_out(wish := _wish(category, rng)):
            pass
        return words.describe(wish), wish

    for i, (text, wish) in enumerate(_different(make, count)):
        assert isinstance(wish, Wish)
        yield Case(category, text, i, wish=wish)


def _chinese() -> Iterator[Case]:
    for i, case in enumerate(c for category in DRAWING for c in _drawings(category, CHINESE // len(DRAWING))):
        assert case.wish is not None
        yield Case("Chinese", words.chinese(case.wish), 1000 + i, wish=case.wish)


def _held_out_scene(rng: random.Random) -> Scene:
    while not scene_held_out(scene := realise(any_wish(rng), rng)):
        pass
    return scene


def _edits() -> Iterator[Case]:
    rng, made = _rng("edits"), 0
    while made < COUNTS["edits"]:
        edit = any_edit(rng, _held_out_scene(rng))
        if edit is not None:
            yield Case("edits", edit.instruction, made, edit=edit)
            made += 1


def _questions() -> Iterator[Case]:
    rng, made = _rng("questions"), 0
    while made < COUNTS["questions"]:
        question = any_question(rng, _held_out_scene(rng))
        if question is not None:
            yield Case("questions", question.text, made, scene=question.scene, answer=question.answer)
            made += 1


def _captions() -> Iterator[Case]:
    rng = _rng("captions")
    for i in range(COUNTS["captions"]):
        scene = caption_order(_held_out_scene(rng))
        yield Case("captions", CAPTION_QUESTION, i, scene=scene, answer=caption(scene))


def _riddles() -> Iterator[Case]:
    """Each riddle twice with one seed: thought over, and drawn at once."""
    for think in (True, False):
        rng, category = _rng("riddles"), "riddles, thinking" if think else "riddles, not thinking"

        def make(rng: random.Random = rng) -> tuple[str, Wish]:
            while not wish_held_out((riddle := any_riddle(rng))[0]):
                pass
            return words.riddle(*riddle, rng), riddle[0]

        for i, (text, wish) in enumerate(_different(make, COUNTS[category])):
            assert isinstance(wish, Wish)
            yield Case(category, text, i, wish=wish, think=think)


def _rng(category: str) -> random.Random:
    return random.Random(zlib.crc32(category.encode()))

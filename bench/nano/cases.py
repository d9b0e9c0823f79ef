"""What the score asks: held-out prompts, edits, questions and riddles, the same ones every time."""

from __future__ import annotations

import functools
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
    "counting": 0.80,
    "colours": 0.97,
    "position": 0.85,
    "colour attribution": 0.85,
    "Chinese": 0.90,
    "edits": 0.80,
    "questions": 0.95,
    "captions": 0.85,
    "riddles, thinking": 0.90,
    "edits of people's pictures": 0.75,
    "questions about people's pictures": 0.75,
}
PER_CATEGORY = 200
EDITED, ASKED = "edits of people's pictures", "questions about people's pictures"
WRITTEN, EDIT_WRITTEN, ASK_WRITTEN = "prompts as people write", "edits as people write", "questions as people write"
UNKNOWN = "words it does not know"
PEOPLE = (EDITED, ASKED, WRITTEN, EDIT_WRITTEN, ASK_WRITTEN, UNKNOWN)
COUNTS = dict.fromkeys(
    ("questions", "captions", "edits", "riddles, thinking", "riddles, not thinking", *PEOPLE), PER_CATEGORY
)
CHINESE = (10, 24)  # of each drawing category: so many first, then so many more
TRIES = (400, 8)  # draws for a prompt not asked before, of the first FIRST and of later ones
FIRST = 60  # some categories have few held-out prompts: then only seeds differ


@dataclass(frozen=True)
class Case:
    """One thing to ask. What is right depends on what is set: a wish, an edit, or an answer. `prompt` is what is asked,
    which may say an edit's instruction in other words."""

    category: str
    prompt: str
    seed: int
    wish: Wish | None = None
    edit: Edit | None = None
    scene: Scene | None = None
    answer: str | None = None
    think: bool = False


@dataclass(frozen=True)
class Half:
    """Of everything that can be asked, what is kept for the score, or what training may have shown."""

    kept: bool

    def rng(self, category: str) -> random.Random:
        return random.Random(zlib.crc32((category if self.kept else f"trained {category}").encode()))

    def wish(self, make: Callable[[], Wish]) -> Wish:
        while wish_held_out(wish := make()) != self.kept:
            pass
        return wish

    def scene(self, rng: random.Random) -> Scene:
        while scene_held_out(scene := realise(any_wish(rng), rng)) != self.kept:
            pass
        return scene


HELD_OUT, TRAINED = Half(True), Half(False)


def all_cases(half: Half = HELD_OUT) -> list[Case]:
    """Plain sentences and plain pictures: what precisions, engines and shortcuts are measured by."""
    return [
        *(c for category in DRAWING for c in _drawings(category, half)),
        *_chinese(half),
        *edits("edits", half, half.scene),
        *questions("questions", half, half.scene),
        *_captions(half),
        *_riddles(half),
    ]


def drawing_wish(category: str, rng: random.Random) -> Wish:
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


def different(make: Callable[[], tuple[str, object]], count: int) -> Iterator[tuple[str, object]]:
    """Yield `count` results of make(), each different from the earlier ones where one is found in TRIES draws."""
    seen: set[str] = set()
    for i in range(count):
        for _ in range(TRIES[i >= FIRST]):
            text, made = make()
            if text not in seen:
                break
        seen.add(text)
        yield text, made


@functools.cache
def _drawings(category: str, half: Half) -> tuple[Case, ...]:
    return tuple(_drawn(category, half))


def _drawn(category: str, half: Half) -> Iterator[Case]:
    rng = half.rng(category)

    def make() -> tuple[str, Wish]:
        wish = half.wish(lambda: drawing_wish(category, rng))
        return words.describe(wish), wish

    for i, (text, wish) in enumerate(different(make, PER_CATEGORY)):
        assert isinstance(wish, Wish)
        yield Case(category, text, i, wish=wish)


def _chinese(half: Half) -> Iterator[Case]:
    of = {category: _drawings(category, half)[: sum(CHINESE)] for category in DRAWING}
    first, more = (
        [c for cases in of.values() for c in cases[part]] for part in (slice(CHINESE[0]), slice(CHINESE[0], None))
    )
    for i, case in enumerate((*first, *more)):
        assert case.wish is not None
        yield Case("Chinese", words.chinese(case.wish), 1000 + i, wish=case.wish)


Say = Callable[[str, random.Random], str | None]  # a plain sentence in other words; None where it is not to be asked


def plainly(text: str, rng: random.Random) -> str | None:
    return text


def edits(category: str, half: Half, scene: Callable[[random.Random], Scene], say: Say = plainly) -> Iterator[Case]:
    rng, made = half.rng(category), 0
    while made < COUNTS[category]:
        edit = any_edit(rng, scene(rng))
        if edit is not None and (text := say(edit.instruction, rng)) is not None:
            yield Case(category, text, made, edit=edit)
            made += 1


def questions(category: str, half: Half, scene: Callable[[random.Random], Scene], say: Say = plainly) -> Iterator[Case]:
    rng, made = half.rng(category), 0
    while made < COUNTS[category]:
        question = any_question(rng, scene(rng))
        if question is not None and (text := say(question.text, rng)) is not None:
            yield Case(category, text, made, scene=question.scene, answer=question.answer)
            made += 1


def _captions(half: Half) -> Iterator[Case]:
    rng = half.rng("captions")
    for i in range(COUNTS["captions"]):
        scene = caption_order(half.scene(rng))
        yield Case("captions", CAPTION_QUESTION, i, scene=scene, answer=caption(scene))


def _riddles(half: Half) -> Iterator[Case]:
    """Each riddle twice with one seed: thought over, and drawn at once."""
    for think in (True, False):
        rng, category = half.rng("riddles"), "riddles, thinking" if think else "riddles, not thinking"

        def make(rng: random.Random = rng) -> tuple[str, Wish]:
            while wish_held_out((riddle := any_riddle(rng))[0]) != half.kept:
                pass
            return words.riddle(*riddle, rng), riddle[0]

        for i, (text, wish) in enumerate(different(make, COUNTS[category])):
            assert isinstance(wish, Wish)
            yield Case(category, text, i, wish=wish, think=think)

"""Training samples of the procedural world: what BAGEL does, as sequences of text, pictures seen and pictures drawn."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from bagel_rt.inputs.system_prompts import THINK_THEN_ANSWER, THINK_THEN_DRAW
from bench.nano import words
from bench.nano.shares import PLAIN, Shares, chance
from bench.nano.wording import NOT_KNOWN, about_unknown
from bench.nano.world import (
    BACKGROUNDS,
    COLOURS,
    GRID,
    MOST,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    Wish,
    added,
    complete,
    free_cells,
    held_out,
    realise,
    relation_of,
    scene_held_out,
    wish_held_out,
    with_thing,
    without,
)

Kind = Literal["read", "write", "look", "keep", "draw"]


@dataclass(frozen=True)
class Part:
    """A segment: text read, text written (learned), an image looked at (ViT), kept (VAE) or drawn (learned)."""

    kind: Kind
    text: str = ""
    scene: Scene | None = None
    droppable: bool = False


Sample = tuple[Part, ...]


@dataclass(frozen=True)
class Edit:
    before: Scene
    instruction: str
    after: Scene
    action: str


@dataclass(frozen=True)
class Question:
    scene: Scene
    text: str
    answer: str
    about: str


def some(rng: random.Random, probability: float, values: object) -> str | None:
    return rng.choice(list(values)) if rng.random() < probability else None  # type: ignore[call-overload]


def description(rng: random.Random, colour: float = 0.75, size: float = 0.12) -> Thing:
    return Thing(rng.choice(SHAPES), some(rng, colour, COLOURS), some(rng, size, SIZES))


def two_kinds(rng: random.Random, colour: float = 0.75, size: float = 0.12) -> tuple[Thing, Thing]:
    """Two descriptions that cannot be taken for one another."""
    while True:
        one, other = description(rng, colour, size), description(rng, colour, size)
        if one.shape != other.shape or (one.colour and other.colour and one.colour != other.colour):
            return one, other


def any_wish(rng: random.Random) -> Wish:
    background = some(rng, 0.3, BACKGROUNDS)
    kind = rng.choices(("one", "group", "pair", "related", "groups", "three"), (22, 22, 18, 23, 10, 5))[0]
    if kind == "one":
        return Wish((description(rng, size=0.25),), None, background)
    if kind == "group":
        return Wish((description(rng),) * rng.randint(2, MOST), None, background)
    one, other = two_kinds(rng)
    if kind == "pair":
        return Wish((one, other), None, background)
    if kind == "related":
        return Wish((one, other), rng.choice(list(RELATIONS)), background)
    if kind == "groups":
        many, few = rng.choice(((2, 1), (1, 2), (2, 2), (3, 1), (1, 3)))
        return Wish((one,) * many + (other,) * few, None, background)
    shapes = rng.sample(SHAPES, 3)
    return Wish(tuple(replace(description(rng), shape=s) for s in shapes), None, background)


def unsaid(wish: Wish) -> Wish:
    """The same without colours and sizes, where its shapes still tell its things apart."""
    plain = tuple(Thing(thing.shape) for thing in wish.things)
    return replace(wish, things=plain) if len(set(plain)) == len(set(wish.things)) else wish


def trained(make: Callable[[random.Random], Wish], rng: random.Random) -> tuple[Wish, Scene]:
    """A wish and a scene for it, neither kept for the score."""
    while True:
        wish = make(rng)
        if not wish_held_out(wish):
            scene = realise(wish, rng)
            if not scene_held_out(scene):
                return wish, scene


def any_edit(rng: random.Random, scene: Scene) -> Edit | None:
    """One of five kinds of edit, described without ambiguity; None where the drawn kind is not possible in this
    scene."""
    action = rng.choice(("recolour", "move", "add", "remove", "background"))
    if action == "background":
        colour = rng.choice([b for b in BACKGROUNDS if b != scene.background])
        return _clear(Edit(scene, f"make the background {colour}", scene.on(colour), action))
    if action == "add":
        if len(scene.placed) >= MOST:
            return None
        thing = Thing(rng.choice(SHAPES), rng.choice(list(COLOURS)))
        return _clear(Edit(scene, f"add {words.counted(thing, 1)}", added(scene, thing, rng), action))
    index = rng.randrange(len(scene.placed))
    placed = scene.placed[index]
    told = tell_apart(scene, placed.thing)
    if told is None:
        return None
    the = f"the {words.noun(told)}"
    if action == "remove":
        return Edit(scene, f"remove {the}", without(scene, index), action) if len(scene.placed) > 1 else None
    if action == "recolour":
        colour = rng.choice([c for c in COLOURS if c != placed.thing.colour])
        changed = with_thing(scene, index, placed.recoloured(colour))
        return _clear(Edit(scene, f"make {the} {colour}", changed, action))
    side, axis, to = rng.choice((("left", 0, 0), ("right", 0, GRID - 1), ("top", 1, 0), ("bottom", 1, GRID - 1)))
    cell = (to, placed.cell[1]) if axis == 0 else (placed.cell[0], to)
    if cell not in free_cells(scene):
        return None
    moved = with_thing(scene, index, replace(placed, cell=cell))
    return _clear(Edit(scene, f"move {the} to the {side}", moved, action))


def _clear(edit: Edit) -> Edit | None:
    """The edit, where one can see that it was done; in plain scenes one always can."""
    return edit if edit.after.is_clear else None


def tell_apart(scene: Scene, thing: Thing) -> Thing | None:
    """The shortest description that fits this thing alone."""
    for told in (Thing(thing.shape), Thing(thing.shape, thing.colour)):
        if scene.count(told) == 1:
            return told
    return None


def any_question(rng: random.Random, scene: Scene) -> Question | None:
    """A question with one right answer; None where the drawn kind cannot be asked of this scene."""
    about = rng.choices(("count", "colour", "shape", "background", "presence", "relation"), (30, 20, 14, 8, 14, 14))[0]
    thing = rng.choice(scene.things)
    if about == "count":
        asked = rng.choice((Thing(thing.shape), Thing(None, thing.colour), Thing(), Thing(rng.choice(SHAPES))))
        return Question(scene, f"how many {words.noun(asked, 2)} are there?", words.NUMBERS[scene.count(asked)], about)
    if about == "colour" and scene.count(Thing(thing.shape)) == 1:
        return Question(scene, f"what colour is the {thing.shape}?", str(thing.colour), about)
    if about == "shape" and scene.count(Thing(None, thing.colour)) == 1:
        return Question(scene, f"what shape is {thing.colour}?", str(thing.shape), about)
    if about == "background" and (scene.manner is None or scene.manner.named):
        return Question(scene, "what colour is the background?", scene.background, about)
    if about == "presence":
        asked = Thing(thing.shape, thing.colour)
        if rng.random() < 0.5:
            asked = rng.choice((Thing(thing.shape, rng.choice(list(COLOURS))), Thing(rng.choice(SHAPES), thing.colour)))
        return Question(scene, f"is there {words.counted(asked, 1)}?", yes(scene.count(asked) > 0), about)
    if about == "relation" and len(scene.placed) > 1:
        first, second = rng.sample(scene.placed, 2)
        relation, told = relation_of(first, second), [tell_apart(scene, p.thing) for p in (first, second)]
        if relation is None or told[0] is None or told[1] is None:
            return None
        asked = relation if rng.random() < 0.5 else rng.choice(list(RELATIONS))
        text = f"is the {words.noun(told[0])} {asked} the {words.noun(told[1])}?"
        return Question(scene, text, yes(asked == relation), about)
    return None


def yes(true: bool) -> str:
    return "yes" if true else "no"


CAPTION_QUESTION = "what is in this picture?"


def caption(scene: Scene) -> str:
    """What is in a scene: its groups, how two things stand where they share a row or column, its background."""
    things = [replace(t, size=None) for t in scene.things]
    relation = relation_of(*scene.placed) if len(scene.placed) == 2 and things[0] != things[1] else None
    ordered = things if relation else sorted(things, key=lambda t: (str(t.shape), str(t.colour)))
    return words.describe(Wish(tuple(ordered), relation, scene.background))


def caption_order(scene: Scene) -> Scene:
    """Two related things in the order a caption names them: left and upper first."""
    return replace(scene, placed=tuple(sorted(scene.placed, key=lambda p: (p.cell[1], p.cell[0]))))


def any_riddle(rng: random.Random) -> tuple[Wish, str]:
    """A wish of one group and the fact its riddle hides."""
    hidden = rng.choice(("number", "colour", "shape"))
    riddled = {"number": {n for _, n in words.COUNT_RIDDLES}, "colour": {c for _, c in words.COLOUR_RIDDLES}}
    number = rng.choice(sorted(riddled["number"])) if hidden == "number" else rng.choice((1, 1, 1, 2, 3))
    colour = rng.choice(sorted(riddled["colour"])) if hidden == "colour" else rng.choice(list(COLOURS))
    return Wish((Thing(rng.choice(SHAPES), colour),) * number, None, some(rng, 0.25, BACKGROUNDS)), hidden


def retry(make: Callable[[], object]):
    while (made := make()) is None:
        pass
    return made


def draw_sample(rng: random.Random, shares: Shares = PLAIN) -> Sample:
    bare = chance(shares.unsaid, rng)
    wish, scene = trained(lambda rng: unsaid(any_wish(rng)) if bare else any_wish(rng), rng)
    text = words.chinese(wish) if rng.random() < 0.14 else words.prompt(wish, rng)
    return (Part("read", shares.said(text, rng), droppable=True), Part("draw", scene=scene))


def edit_sample(rng: random.Random, shares: Shares = PLAIN) -> Sample:
    while True:
        edit = any_edit(rng, shares.drawn(trained(any_wish, rng)[1], rng))
        if edit is not None and not scene_held_out(edit.after):
            break
    return (
        Part("keep", scene=edit.before, droppable=True),
        Part("look", scene=edit.before, droppable=True),
        Part("read", shares.said(edit.instruction, rng), droppable=True),
        Part("draw", scene=without_jpeg(edit.after)),
    )


def without_jpeg(scene: Scene) -> Scene:
    """As it is to be drawn: traces of JPEG are nobody's wish."""
    return replace(scene, manner=replace(scene.manner, quality=None)) if scene.manner else scene


def ask_sample(rng: random.Random, shares: Shares = PLAIN) -> Sample:
    scene = trained(any_wish, rng)[1]
    if rng.random() < 0.2 or chance(shares.captions, rng):
        scene = caption_order(scene)
        question = shares.said(CAPTION_QUESTION, rng)
        return (Part("look", scene=scene), Part("read", question), Part("write", caption(scene)))
    scene = shares.drawn(scene, rng)
    if chance(shares.unknown, rng):
        question = about_unknown(rng.choice(SHAPES), rng, held_out=False)
        return (Part("look", scene=scene), Part("read", shares.said(question, rng)), Part("write", NOT_KNOWN))
    question = retry(lambda: any_question(rng, scene))
    asked = (Part("look", scene=scene), Part("read", shares.said(question.text, rng)))
    if scene.manner is None and rng.random() < 0.1:
        written = f"{words.thought(caption(caption_order(scene)))} {question.answer}"
        return (Part("read", THINK_THEN_ANSWER), *asked, Part("write", written))
    return (*asked, Part("write", question.answer))


def think_sample(rng: random.Random, shares: Shares = PLAIN) -> Sample:
    """A riddle, or now and then a plain prompt, thought over before it is drawn."""
    if rng.random() < 0.8:
        while held_out((wish := (drawn := any_riddle(rng))[0]).things, wish.background):
            pass
        text = words.riddle(wish, drawn[1], rng)
        scene = retry(lambda: None if scene_held_out(made := realise(wish, rng)) else made)
    else:
        wish, scene = trained(any_wish, rng)
        text = words.prompt(wish, rng)
    return (
        Part("read", THINK_THEN_DRAW),
        Part("read", shares.said(text, rng), droppable=True),
        Part("write", words.thought(words.describe(wish)), droppable=True),
        Part("draw", scene=scene),
    )


DRAW_THEN_ANSWER = "You should first draw what is left and then answer."  # the system prompt of style.toml
DRAW = "<image_start>"  # a text that ends with it asks for a picture


@dataclass(frozen=True)
class Left:
    """A question about what is left of a scene without its things of one description."""

    before: Scene
    gone: Thing
    after: Scene

    @property
    def text(self) -> str:
        return f"how many shapes are left without the {words.noun(self.gone, 2)}?"

    @property
    def answer(self) -> str:
        return words.NUMBERS[len(self.after.placed)]

    @property
    def plan(self) -> str:
        return f"remove the {words.noun(self.gone, 2)} {DRAW}"


def any_left(rng: random.Random) -> Left:
    """Two to MOST things, of which some go by their shape or their colour, and one at least stays."""
    gone = Thing(rng.choice(SHAPES)) if rng.random() < 0.7 else Thing(None, rng.choice(list(COLOURS)))
    while True:
        things = tuple(complete(gone if rng.random() < 0.4 else Thing(), rng) for _ in range(_few(rng)))
        scene = realise(Wish(things), rng)
        stays = tuple(p for p in scene.placed if not gone.fits(p.thing))
        if 0 < len(stays) < len(things):
            return Left(scene, gone, replace(scene, placed=stays))


def _few(rng: random.Random) -> int:
    return rng.choices((2, 3, MOST), (1, 2, 3))[0]


def answered(answer: str) -> str:
    return f"<answer> {answer} </answer>"


def _left(rng: random.Random, shares: Shares) -> Left:
    """One whose scenes are not kept for the score."""
    while scene_held_out((left := any_left(rng)).before) or scene_held_out(left.after):
        pass
    before = shares.drawn(left.before, rng)
    stays = tuple(p for p in before.placed if not left.gone.fits(p.thing))
    return replace(left, before=before, after=replace(before, placed=stays))


def left_sample(rng: random.Random, shares: Shares = PLAIN) -> Sample:
    """What is left is drawn, looked at as any other picture, and counted. All words before it are dropped together."""
    left = _left(rng, shares)
    after = without_jpeg(left.after)
    return (
        Part("read", DRAW_THEN_ANSWER, droppable=True),
        Part("keep", scene=left.before, droppable=True),
        Part("look", scene=left.before, droppable=True),
        Part("read", shares.said(left.text, rng), droppable=True),
        Part("write", left.plan, droppable=True),
        Part("draw", scene=after),
        Part("keep", scene=after),
        Part("look", scene=after),
        Part("write", answered(left.answer)),
    )


def left_in_words_sample(rng: random.Random, shares: Shares = PLAIN) -> Sample:
    """The same question answered at once, or after a caption of what is left."""
    left = _left(rng, PLAIN)
    asked = (Part("look", scene=left.before), Part("read", shares.said(left.text, rng)))
    if rng.random() < 0.5:
        return (*asked, Part("write", left.answer))
    thought = words.thought(caption(caption_order(left.after)))
    return (Part("read", THINK_THEN_ANSWER), *asked, Part("write", f"{thought} {left.answer}"))


TASKS: dict[str, Callable[..., Sample]] = {  # of a random.Random and, where not all is plain, Shares
    "draw": draw_sample,
    "edit": edit_sample,
    "ask": ask_sample,
    "think": think_sample,
    "left": left_sample,
    "left in words": left_in_words_sample,
}

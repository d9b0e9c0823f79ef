"""The procedural world: scenes of coloured shapes on a loose 3 x 3 grid, and the combinations kept out of training."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (220, 30, 35),
    "orange": (250, 140, 20),
    "yellow": (250, 220, 40),
    "green": (30, 160, 60),
    "cyan": (60, 210, 220),
    "blue": (40, 70, 220),
    "purple": (135, 45, 175),
    "pink": (250, 130, 190),
}
BACKGROUNDS = {"white": (255, 255, 255), "black": (15, 15, 15), "gray": (130, 130, 130), "beige": (235, 220, 190)}
SIZES = {"small": 6.5, "big": 9.0}  # radius in a 64 pixel picture
GRID, SIDE, JITTER = 3, 64, 1.0
PITCH = 20.5
CENTRES = tuple(SIDE / 2 + PITCH * (i - 1) for i in range(GRID))
MOST = 4
HELD_OUT = 8  # one combination in this many is never trained on
VISIBLE = 75  # RGB distance from the ground below which a thing could be overlooked
REACHES = 1.2  # radii: a star's points, the farthest of all shapes
Cell = tuple[int, int]  # column, row
RGB = tuple[int, int, int]
# (columns, rows) from the second thing to the first
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


@dataclass(frozen=True)
class Thing:
    """What words can say of one shape; None is left unsaid."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None

    def fits(self, other: Thing) -> bool:
        """Whether `other` is what this description says."""
        return all(
            said in (None, seen)
            for said, seen in ((self.shape, other.shape), (self.colour, other.colour), (self.size, other.size))
        )


@dataclass(frozen=True)
class Form:
    """How a thing looks where it is not drawn plainly; radius in pixels of a 64 pixel picture."""

    radius: float
    shade: RGB | None = None  # None: the colour's own value
    line: float | None = None  # width of a ring's band or a cross's bars, in radii; None: the plain one
    turn: float = 0.0  # degrees
    outlined: bool = False  # by a thin line in a darker shade


@dataclass(frozen=True)
class Manner:
    """How a picture was made that is not drawn plainly: by whose `hand` (bench.nano.pictures), at which side."""

    hand: str
    side: int
    smooth: bool = True  # antialiased
    ground: RGB | None = None  # None: the background's own value
    quality: int | None = None  # JPEG's; None: without its artefacts
    named: bool = True  # whether the ground is a shade of what Scene.background says


@dataclass(frozen=True)
class Placed:
    """A thing with nothing left unsaid, in a cell, off its centre by dx, dy pixels (of a 64 pixel picture)."""

    thing: Thing
    cell: Cell
    dx: float = 0.0
    dy: float = 0.0
    form: Form | None = None

    @property
    def centre(self) -> tuple[float, float]:
        """x, y in a 64 pixel picture."""
        return CENTRES[self.cell[0]] + self.dx, CENTRES[self.cell[1]] + self.dy

    @property
    def radius(self) -> float:
        return self.form.radius if self.form else SIZES[self.thing.size or "big"]

    @property
    def shade(self) -> RGB:
        return (self.form and self.form.shade) or COLOURS[self.thing.colour or "red"]

    def recoloured(self, colour: str) -> Placed:
        """In the plain value of another colour: an instruction says no other."""
        form = self.form and replace(self.form, shade=None)
        return replace(self, thing=replace(self.thing, colour=colour), form=form)

    @property
    def is_inside(self) -> bool:
        return all(self.radius * REACHES <= c <= SIDE - self.radius * REACHES for c in self.centre)

    def touches(self, other: Placed) -> bool:
        """Whether two things might be seen as one."""
        (x1, y1), (x2, y2) = self.centre, other.centre
        return math.hypot(x1 - x2, y1 - y2) < (self.radius + other.radius) * REACHES


@dataclass(frozen=True)
class Scene:
    placed: tuple[Placed, ...]
    background: str
    manner: Manner | None = None  # None: drawn plainly

    @property
    def things(self) -> tuple[Thing, ...]:
        return tuple(p.thing for p in self.placed)

    @property
    def ground(self) -> RGB:
        return (self.manner and self.manner.ground) or BACKGROUNDS[self.background]

    def count(self, thing: Thing) -> int:
        return sum(thing.fits(t) for t in self.things)

    def on(self, background: str) -> Scene:
        """On the plain value of another background."""
        manner = self.manner and replace(self.manner, ground=None, named=True)
        return replace(self, background=background, manner=manner)

    @property
    def is_clear(self) -> bool:
        """Whether every thing can be told from the ground and, off the plain grid, from the others."""
        if any(colours_apart(p.shade, self.ground) < VISIBLE for p in self.placed):
            return False
        if self.manner is None:
            return True
        pairs = [(a, b) for i, a in enumerate(self.placed) for b in self.placed[:i]]
        return all(p.is_inside for p in self.placed) and not any(a.touches(b) for a, b in pairs)


def colours_apart(one: RGB, other: RGB) -> float:
    """Distance of two colours in RGB."""
    return math.dist(one, other)


@dataclass(frozen=True)
class Wish:
    """What a prompt asks for: these things and no others, maybe the first `relation` the second, maybe a background."""

    things: tuple[Thing, ...]
    relation: str | None = None
    background: str | None = None

    @property
    def is_group(self) -> bool:
        """Several things of one description: told by their number."""
        return len(self.things) > 1 and len(set(self.things)) == 1


def held_out(things: Iterable[Thing], background: str | None) -> bool:
    """Whether a combination of shapes and colours is kept for the score: sizes and places do not matter.

    A single thing counts together with its background, for there are few of them; what is unsaid is a value too.
    """
    names = sorted(f"{t.colour} {t.shape}" for t in things)
    key = ", ".join(names) + (f" on {background}" if len(names) == 1 else "")
    return zlib.crc32(key.encode()) % HELD_OUT == 0


def scene_held_out(scene: Scene) -> bool:
    return held_out(scene.things, scene.background)


def wish_held_out(wish: Wish) -> bool:
    return held_out(wish.things, wish.background)


def realise(wish: Wish, rng: random.Random) -> Scene:
    """A scene that fulfils the wish: what is unsaid is chosen, alike for like descriptions, then placed."""
    looks = {t: complete(t, rng) for t in dict.fromkeys(wish.things)}
    things = [looks[t] for t in wish.things]
    if wish.relation is None:
        cells = rng.sample([(x, y) for x in range(GRID) for y in range(GRID)], len(things))
    else:
        cells = _related_cells(wish.relation, rng)
    placed = tuple(Placed(t, cell, *_jitter(rng)) for t, cell in zip(things, cells, strict=True))
    return Scene(placed, wish.background or rng.choice(list(BACKGROUNDS)))


def complete(thing: Thing, rng: random.Random) -> Thing:
    return Thing(
        thing.shape or rng.choice(SHAPES),
        thing.colour or rng.choice(list(COLOURS)),
        thing.size or rng.choice(list(SIZES)),
    )


def random_scene(rng: random.Random) -> Scene:
    """Any scene of the training world: one to four things, never a combination kept for the score."""
    while True:
        things = tuple(complete(Thing(), rng) for _ in range(rng.randint(1, MOST)))
        scene = realise(Wish(things), rng)
        if not scene_held_out(scene):
            return scene


def _jitter(rng: random.Random) -> tuple[float, float]:
    return rng.uniform(-JITTER, JITTER), rng.uniform(-JITTER, JITTER)


def _related_cells(relation: str, rng: random.Random) -> list[Cell]:
    across, down = RELATIONS[relation]
    first, second = sorted(rng.sample(range(GRID), 2), reverse=across + down > 0)
    other = rng.randrange(GRID)
    return [(first, other), (second, other)] if across else [(other, first), (other, second)]


def relation_of(first: Placed, second: Placed) -> str | None:
    """How the first stands to the second, where they share a row or a column."""
    (x1, y1), (x2, y2) = first.cell, second.cell
    if (x1 == x2) == (y1 == y2):
        return None
    step = ((x1 > x2) - (x1 < x2), (y1 > y2) - (y1 < y2))
    return next(name for name, way in RELATIONS.items() if way == step)


def free_cells(scene: Scene) -> list[Cell]:
    taken = {p.cell for p in scene.placed}
    return [(x, y) for x in range(GRID) for y in range(GRID) if (x, y) not in taken]


def with_thing(scene: Scene, index: int, placed: Placed) -> Scene:
    return replace(scene, placed=(*scene.placed[:index], placed, *scene.placed[index + 1 :]))


def added(scene: Scene, thing: Thing, rng: random.Random) -> Scene:
    placed = Placed(complete(thing, rng), rng.choice(free_cells(scene)), *_jitter(rng))
    return replace(scene, placed=(*scene.placed, placed))


def without(scene: Scene, index: int) -> Scene:
    return replace(scene, placed=(*scene.placed[:index], *scene.placed[index + 1 :]))


def unique(scene: Scene, described: Sequence[Thing]) -> list[Thing]:
    """Those descriptions that fit exactly one thing of the scene."""
    return [d for d in described if scene.count(d) == 1]

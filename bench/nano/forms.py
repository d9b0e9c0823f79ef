"""Scenes as they are not drawn plainly: other sizes, places, shades, line widths, grounds, and traces of JPEG."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from bench.nano.world import BACKGROUNDS, COLOURS, RGB, Form, Manner, Placed, Scene, colours_apart

MARGIN = 25  # by which a shade is nearer to its own colour's plain value than to any other's
FAR = 100  # and how far it may be: beyond, the checker finds no name for it
TRIES = 40


@dataclass(frozen=True)
class Hand:
    """What one who draws may choose. Sizes are in pixels of a 64 pixel picture, lines in radii."""

    radii: tuple[float, float]
    alone: tuple[float, float]  # radii of a thing that is the only one
    off: float  # most pixels off a cell's centre
    lines: dict[str, tuple[float, float]]
    turn: float  # most degrees
    sides: tuple[int, ...]
    qualities: tuple[int, int]
    shades: dict[str, tuple[RGB, ...]] | None = None  # None: any near enough to the colour
    grounds: dict[str, tuple[RGB, ...]] | None = None


# bench.nano.varied draws for training; bench.nano.people draws what is held out, in the colours PIL has names for
HANDS = {
    "varied": Hand(
        radii=(5.5, 10.0),
        alone=(6.0, 22.0),
        off=4.5,
        lines={"ring": (0.35, 0.65), "cross": (0.45, 0.85), "star": (0.4, 0.55)},
        turn=6.0,
        sides=(64, 72, 80, 96, 112, 128, 160, 192, 224, 256),
        qualities=(55, 95),
    ),
    "people": Hand(
        radii=(6.0, 9.5),
        alone=(6.0, 18.0),
        off=3.5,
        lines={"ring": (0.38, 0.6), "cross": (0.45, 0.8), "star": (0.42, 0.52)},
        turn=0.0,
        sides=(64, 100, 128, 200, 256),
        qualities=(60, 92),
        shades={
            "red": ((255, 0, 0), (220, 20, 60), (178, 34, 34)),
            "orange": ((255, 165, 0), (255, 140, 0)),
            "yellow": ((255, 255, 0), (255, 215, 0)),
            "green": ((0, 128, 0), (34, 139, 34), (50, 205, 50)),
            "cyan": ((0, 255, 255), (64, 224, 208)),
            "blue": ((0, 0, 255), (65, 105, 225), (0, 0, 205)),
            "purple": ((128, 0, 128), (148, 0, 211)),
            "pink": ((255, 192, 203), (255, 105, 180)),
        },
        grounds={
            "white": ((255, 255, 255), (245, 245, 245)),
            "black": ((0, 0, 0), (40, 40, 40)),
            "gray": ((128, 128, 128), (169, 169, 169)),
            "beige": ((245, 222, 179), (222, 184, 135)),
        },
    ),
}
OTHER_GROUNDS = ((200, 225, 255), (215, 250, 215), (20, 30, 70), (70, 40, 20), (255, 225, 215), (90, 100, 120))


def varied(scene: Scene, rng: random.Random, hand: str) -> Scene:
    """The scene as `hand` may draw it, every thing in its cell and in sight; drawn plainly where none was found."""
    for _ in range(TRIES):
        if (made := _drawn(scene, rng, hand)).is_clear:
            return made
    return scene


def _drawn(scene: Scene, rng: random.Random, name: str) -> Scene:
    hand = HANDS[name]
    manner = _ground(scene.background, rng, hand, Manner(name, rng.choice(hand.sides), rng.random() < 0.65))
    if rng.random() < 0.4:  # in a small picture JPEG's blocks are as large as a thing
        manner = replace(manner, quality=rng.randint(*hand.qualities) if manner.side >= 96 else hand.qualities[1])
    shades = {t.colour: _shade(t.colour, rng, hand) for t in scene.things if t.colour}
    usual = rng.uniform(*hand.radii)  # half of all pictures have things of one size
    alike = usual if rng.random() < 0.5 else None
    outlined = rng.random() < 0.2
    placed = []
    for p in scene.placed:
        radius = alike or rng.uniform(*(hand.alone if len(scene.placed) == 1 else hand.radii))
        line = _line(p.thing.shape, radius, rng, hand)
        turn = rng.uniform(-hand.turn, hand.turn) if rng.random() < 0.5 else 0.0
        form = Form(radius, shades.get(p.thing.colour), line, turn, outlined)
        placed.append(Placed(p.thing, p.cell, _off(rng, hand), _off(rng, hand), form))
    return replace(scene, placed=tuple(placed), manner=manner)


def _off(rng: random.Random, hand: Hand) -> float:
    return rng.uniform(-hand.off, hand.off)


def _line(shape: str | None, radius: float, rng: random.Random, hand: Hand) -> float | None:
    """In steps of a twentieth, so that few tables of distances are made; never under two pixels."""
    if shape not in hand.lines:
        return None
    return max(round(20 * rng.uniform(*hand.lines[shape])) / 20, -(-40 // radius) / 20)


def _ground(background: str, rng: random.Random, hand: Hand, manner: Manner) -> Manner:
    kind = rng.choices(("plain", "shade", "other"), (35, 40, 25))[0]
    if kind == "plain":
        return manner
    if kind == "other":
        return replace(manner, ground=_moved(rng.choice(OTHER_GROUNDS), 12, rng), named=False)
    if hand.grounds:
        return replace(manner, ground=rng.choice(hand.grounds[background]))
    return replace(manner, ground=_near(background, BACKGROUNDS, 28, rng))


def _shade(colour: str, rng: random.Random, hand: Hand) -> RGB | None:
    if rng.random() < 0.2:
        return None
    return rng.choice(hand.shades[colour]) if hand.shades else _near(colour, COLOURS, 90, rng)


def _near(name: str, palette: dict[str, RGB], most: int, rng: random.Random) -> RGB:
    """A value that anyone would call by this name among those of the palette."""
    while True:
        value = _moved(palette[name], most, rng)
        distances = {other: colours_apart(value, plain) for other, plain in palette.items()}
        own = distances.pop(name)
        if own < FAR and own + MARGIN <= min(distances.values()):
            return value


def _moved(value: RGB, most: int, rng: random.Random) -> RGB:
    r, g, b = (min(255, max(0, c + rng.randint(-most, most))) for c in value)
    return r, g, b

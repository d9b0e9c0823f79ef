"""Finds the shapes of a picture in its pixels and compares them with what was asked for."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from bench.nano.blobs import PALETTE, Blob, blobs, cuts, nearest
from bench.nano.render import REACH, distances
from bench.nano.world import (
    BACKGROUNDS,
    COLOURS,
    RELATIONS,
    RGB,
    SHAPES,
    SIDE,
    SIZES,
    Placed,
    Scene,
    Thing,
    Wish,
    colours_apart,
)

LEAST_OVERLAP = 0.62  # intersection over union with the best shape, below which a blob is no shape
RADII = (SIZES["small"] * 0.7, SIZES["big"] * 1.4)  # beyond them a blob is no shape of the world
LEAST_OF_FORMS = 0.5  # as LEAST_OVERLAP: a line two pixels wide is much edge
RADII_OF_FORMS = (3.5, 24.0)  # for pictures that are not drawn plainly
Variant = tuple[str, float | None]  # a shape and its line, as bench.nano.render.distances takes them
PLAIN: tuple[Variant, ...] = tuple((shape, None) for shape in SHAPES)
FORMS: tuple[Variant, ...] = (
    *PLAIN,
    *(("ring", line) for line in (0.25, 0.35, 0.7)),
    *(("cross", line) for line in (0.35, 0.5, 0.85)),
    *(("star", line) for line in (0.38, 0.54)),
)
HOLE = 0.25  # of the radius: a circle that has the ground's colour so far around its centre is a ring with a small hole
SAME_GROUND = 45  # RGB distance up to which a ground that is not a plain one is still the same
FAR = 110  # RGB distance to the nearest named colour beyond which a blob has none
APART = 8.0  # pixels by which two centres must differ for a relation
STILL = 4.0  # pixels a thing may move in an edit that leaves it alone
MIDDLE = (SIZES["small"] + SIZES["big"]) / 2


@dataclass(frozen=True)
class Found:
    """One shape of a picture; centre in pixels of a 64 pixel picture."""

    thing: Thing
    x: float
    y: float


@dataclass(frozen=True)
class Seen:
    """found: every blob, None where one is no shape of the world."""

    found: tuple[Found | None, ...]
    background: str
    ground: RGB = (0, 0, 0)

    @property
    def things(self) -> tuple[Thing | None, ...]:
        return tuple(f.thing if f else None for f in self.found)


def look(image: np.ndarray, forms: bool = False) -> Seen:
    """What is in a square picture (side, side, 3) uint8. forms: shapes may be of other sizes, lines and shades than the
    plain ones; a thing's size is then not told."""
    pixels, scale = image.astype(np.float32), SIDE / image.shape[0]
    names = list(BACKGROUNDS)
    votes = nearest(pixels, np.array([BACKGROUNDS[n] for n in names], np.float32))[0]
    background = names[int(np.bincount(votes.ravel()).argmax())]
    # the picture's own shade of it: a drawn background is a little off
    ground = np.median(pixels[votes == names.index(background)], axis=0)
    found = [f for blob in blobs(pixels, ground, scale, forms) for f in _things(blob, scale, forms)]
    return Seen(tuple(found), background, (int(ground[0]), int(ground[1]), int(ground[2])))


def _things(blob: Blob, scale: float, forms: bool) -> list[Found | None]:
    """The blob's shape; where it is none, the shapes it is cut into at its narrow places, if they all are some."""
    whole = _found(blob, scale, forms)
    for parts in cuts(blob, scale) if whole is None else ():
        found = [_found(part, scale, forms) for part in parts]
        if all(found):
            return found
    return [whole]


def _colour(value: np.ndarray) -> str:
    index, far = nearest(value, PALETTE)
    return list(COLOURS)[int(index)] if far < FAR else ""


def _found(blob: Blob, scale: float, forms: bool) -> Found | None:
    area, (rows, columns) = blob.mask.sum(), np.nonzero(blob.mask)
    x, y = columns.mean() + 0.5, rows.mean() + 0.5
    overlaps = {v: _overlap(v, blob.mask, area, x, y) for v in (FORMS if forms else PLAIN)}
    best = max(overlaps, key=lambda v: overlaps[v][0])
    overlap, x, y, radius = overlaps[best]
    least, most = RADII_OF_FORMS if forms else RADII
    colour = _colour(blob.colour)
    if overlap < (LEAST_OF_FORMS if forms else LEAST_OVERLAP) or not colour or not least <= radius * scale <= most:
        return None
    shape = "ring" if best[0] == "circle" and blob.share(x, y, radius * HOLE) < 0.5 else best[0]
    size = None if forms else "small" if radius * scale < MIDDLE else "big"
    return Found(Thing(shape, colour, size), float(x * scale), float(y * scale))


def _overlap(
    variant: Variant, mask: np.ndarray, area: float, cx: float, cy: float
) -> tuple[float, float, float, float]:
    """Intersection over union with this shape at the blob's area and centroid; with it, its centre and radius."""
    unit_area, (ox, oy) = _unit(variant)
    radius, table = math.sqrt(area / unit_area), distances(*variant)
    x, y = cx - ox * radius, cy - oy * radius

    def axis(centre: float, n: int) -> np.ndarray:
        at = ((np.arange(n) + 0.5 - centre) / radius + REACH) / (2 * REACH) * (len(table) - 1)
        return np.clip(np.rint(at).astype(int), 0, len(table) - 1)

    drawn = table[np.ix_(axis(y, mask.shape[0]), axis(x, mask.shape[1]))] < 0
    return float((drawn & mask).sum() / (drawn | mask).sum()), x, y, radius


@functools.cache
def _unit(variant: Variant) -> tuple[float, tuple[float, float]]:
    """Area and centroid of the shape of radius 1."""
    inside, axis = distances(*variant) < 0, np.linspace(-REACH, REACH, len(distances(*variant)))
    x, y = np.meshgrid(axis, axis)
    return inside.sum() * (axis[1] - axis[0]) ** 2, (x[inside].mean(), y[inside].mean())


def relates(first: Found, second: Found, relation: str) -> bool:
    across, down = RELATIONS[relation]
    dx, dy = first.x - second.x, first.y - second.y
    along, aside = (dx * across, abs(dy)) if across else (dy * down, abs(dx))
    return along > APART and along > aside


def fulfils(seen: Seen, wish: Wish) -> bool:
    """Whether the picture holds the things asked for and nothing else, related and on the background asked for."""
    if len(seen.found) != len(wish.things) or any(f is None for f in seen.found):
        return False
    if wish.background and seen.background != wish.background:
        return False
    return any(_assigned(order, wish) for order in permutations(f for f in seen.found if f))


def _assigned(found: tuple[Found, ...], wish: Wish) -> bool:
    if not all(asked.fits(f.thing) for asked, f in zip(wish.things, found, strict=True)):
        return False
    return wish.relation is None or relates(found[0], found[1], wish.relation)


def shows(seen: Seen, scene: Scene) -> bool:
    """Whether the picture is this scene: every thing where it should be, but for STILL pixels, and no other."""
    if len(seen.found) != len(scene.placed) or not is_on(seen, scene):
        return False
    return all(any(_is(f, p) for f in seen.found) for p in scene.placed)


def is_on(seen: Seen, scene: Scene) -> bool:
    """Whether the ground is the scene's: the plain one that is named alike, or, of another, one that looks alike."""
    if scene.manner is None:
        return seen.background == scene.background
    return colours_apart(seen.ground, scene.ground) <= SAME_GROUND


def _is(found: Found | None, placed: Placed) -> bool:
    if found is None or math.hypot(found.x - placed.centre[0], found.y - placed.centre[1]) > STILL:
        return False
    return found.thing.fits(placed.thing)  # the size was told of plain things only


def keeps(seen: Seen, before: Scene, except_for: Iterable[int] = ()) -> bool:
    """Whether everything of `before` is still there, but for the places named."""
    gone = set(except_for)
    return all(any(_is(f, p) for f in seen.found) for i, p in enumerate(before.placed) if i not in gone)

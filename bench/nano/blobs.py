"""Finds what stands out of a picture's ground: connected parts of one colour, cut where things touch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bench.nano.world import COLOURS

PALETTE = np.array(list(COLOURS.values()), np.float32)
AROUND = np.ones((3, 3))  # corners connect
STANDS_OUT = 45  # RGB distance from the ground
FOREGROUND = 0.5  # share of the way from the ground's colour to a thing's
LEAST_AREA = 20  # pixels of a 64 pixel picture; the smallest shape has about 50
STRONG, STRONG_OF_FORMS = 0.2, 0.35  # share of a region from which on a colour is a thing of its own
LEAST_CORE = 12  # pixels of a 64 pixel picture that a thing must have inside its edge, for the edge to be left out
ONE_THING = 0.7  # share of two colours' distance below which two parts' colours are one thing's that runs between them
BLEND = 20  # RGB distance from the line between two colours up to which one is a blend of them
NECKS = (0.9, 1.5, 2.1, 2.7, 3.3)  # pixels of a 64 pixel picture: half the widths at which a blob is cut


@dataclass(frozen=True)
class Blob:
    """Where it is, its own colour, and of every pixel the share of the way from the ground's colour to that."""

    mask: np.ndarray
    colour: np.ndarray
    cover: np.ndarray

    def share(self, x: float, y: float, radius: float) -> float:
        """The mean cover around a point."""
        rows, columns = np.indices(self.mask.shape) + 0.5
        near = np.hypot(columns - x, rows - y) <= max(radius, 1.0)
        return float(self.cover[near].mean())


def nearest(pixels: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of and distance to the nearest palette colour, for any leading shape."""
    apart = np.linalg.norm(pixels[..., None, :] - palette, axis=-1)
    return apart.argmin(-1), apart.min(-1)


def blobs(pixels: np.ndarray, ground: np.ndarray, scale: float, forms: bool) -> Iterator[Blob]:
    """Of float32 pixels (side, side, 3); scale: pixels of a 64 pixel picture for one of this. forms: as in look."""
    apart = np.linalg.norm(pixels - ground, axis=-1)
    names = nearest(pixels, PALETTE)[0]
    regions, count = ndimage.label(apart > STANDS_OUT, AROUND)
    for region in range(1, count + 1):
        inside = regions == region
        core = _core(inside, apart, scale)
        for own in _by_colour(pixels, names, ground, inside, core, STRONG_OF_FORMS if forms else STRONG):
            yield from _connected(pixels, ground, apart, own, core, scale)


def _core(inside: np.ndarray, apart: np.ndarray, scale: float) -> np.ndarray:
    """A region without its edges, whose colours are blends of two, or an outline's."""
    eroded = ndimage.binary_erosion(inside, iterations=max(1, round(1 / scale)))
    return eroded if eroded.sum() * scale**2 >= LEAST_CORE else _strongest(inside, apart)


def _strongest(inside: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Where a region stands out most."""
    return inside & (apart > 0.8 * np.quantile(apart[inside], 0.75))


def _by_colour(
    pixels: np.ndarray, names: np.ndarray, ground: np.ndarray, inside: np.ndarray, core: np.ndarray, strong: float
) -> list[np.ndarray]:
    """A region cut where its colour changes; an edge pixel goes to the nearer part."""
    names = np.where(core, names, -1)
    shares = np.bincount(names[core], minlength=len(PALETTE)) / max(1, core.sum())
    middles = {int(name): np.median(pixels[names == name], axis=0) for name in np.flatnonzero(shares > strong)}
    parts = [np.isin(names, group) for group in _groups(middles, ground)]
    if len(parts) < 2:
        return [inside]
    far = np.argmin([ndimage.distance_transform_edt(~part) for part in parts], axis=0)
    return [inside & (far == i) for i in range(len(parts))]


def _groups(middles: dict[int, np.ndarray], ground: np.ndarray) -> list[list[int]]:
    """Colours of a region, by their names; those together that are one thing's."""
    groups: list[list[int]] = []
    for name in middles:
        near = [group for group in groups if any(_one_thing(name, other, middles, ground) for other in group)]
        groups = [group for group in groups if group not in near] + [[name, *(n for g in near for n in g)]]
    return groups


def _one_thing(a: int, b: int, middles: dict[int, np.ndarray], ground: np.ndarray) -> bool:
    """Whether one colour runs into the other within a thing, or is the other's blend with the ground, as at an edge."""
    apart, of = np.linalg.norm(middles[a] - middles[b]), np.linalg.norm(PALETTE[a] - PALETTE[b])
    return bool(apart < ONE_THING * of) or any(_blends(middles[x], middles[y], ground) for x, y in ((a, b), (b, a)))


def _blends(edge: np.ndarray, colour: np.ndarray, ground: np.ndarray) -> bool:
    share = float(_cover(edge, ground, colour))
    return share < 1 and bool(np.linalg.norm(ground + share * (colour - ground) - edge) < BLEND)


def _connected(
    pixels: np.ndarray, ground: np.ndarray, apart: np.ndarray, own: np.ndarray, core: np.ndarray, scale: float
) -> Iterator[Blob]:
    """The connected parts of what has one colour."""
    colour = np.median(pixels[_strongest(own & core, apart)], axis=0)
    cover = _cover(pixels, ground, colour)
    parts, count = ndimage.label(own & (apart > FOREGROUND * np.linalg.norm(colour - ground)), AROUND)
    for part in range(1, count + 1):
        mask = parts == part
        if mask.sum() * scale**2 >= LEAST_AREA:
            yield Blob(mask, colour, cover)


def _cover(pixels: np.ndarray, ground: np.ndarray, colour: np.ndarray) -> np.ndarray:
    way = colour - ground
    return (pixels - ground) @ way / max(float(way @ way), 1.0)


def cuts(blob: Blob, scale: float) -> Iterator[list[Blob]]:
    """The parts of a blob that hang together by narrow places alone, once for each width that parts it."""
    inward = ndimage.distance_transform_edt(blob.mask) * scale
    for neck in NECKS:
        seeds, count = ndimage.label(inward > neck, AROUND)
        if count > 1:
            at = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
            owner = seeds[tuple(at)]
            yield [Blob(blob.mask & (owner == i), blob.colour, blob.cover) for i in range(1, count + 1)]

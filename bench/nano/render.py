"""Scenes to pixels: signed distances looked up in a table per shape, antialiased over one pixel."""

from __future__ import annotations

import functools
import math

import numpy as np

from bench.nano.world import BACKGROUNDS, COLOURS, SIDE, SIZES, Scene

TABLE, REACH = 513, 1.6  # table side; it spans -REACH..REACH radii
LINES = {"ring": 0.52, "cross": 0.68, "star": 0.46}  # of the plain shapes, see distances


def render(scene: Scene, side: int = SIDE) -> np.ndarray:
    """(side, side, 3) uint8."""
    scale = side / SIDE
    image = np.empty((side, side, 3), np.float32)
    image[:] = BACKGROUNDS[scene.background]
    for placed in scene.placed:
        thing = placed.thing
        assert thing.shape is not None
        x, y = (c * scale for c in placed.centre)
        radius = SIZES[thing.size or "big"] * scale
        rows, columns = _window(y, radius, side), _window(x, radius, side)
        cover = _cover(thing.shape, radius, np.arange(side)[columns] + 0.5 - x, np.arange(side)[rows] + 0.5 - y)
        spot = image[rows, columns]
        spot += cover[..., None] * (np.asarray(COLOURS[thing.colour or "red"], np.float32) - spot)
    return np.rint(image).astype(np.uint8)


def _window(centre: float, radius: float, side: int) -> slice:
    return slice(max(0, int(centre - radius * 1.2 - 2)), min(side, int(centre + radius * 1.2 + 3)))


def _cover(shape: str, radius: float, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """How much of each pixel the shape covers, (rows, columns) in 0..1."""
    columns, rows = (np.clip(((d / radius + REACH) / (2 * REACH) * (TABLE - 1)), 0, TABLE - 1) for d in (dx, dy))
    table = distances(shape)
    return np.clip(0.5 - table[np.ix_(np.rint(rows).astype(int), np.rint(columns).astype(int))] * radius, 0, 1)


@functools.cache
def distances(shape: str, line: float | None = None) -> np.ndarray:
    """Signed distance in radii, negative inside, (TABLE, TABLE) over -REACH..REACH; y grows downwards.

    line, in radii: the width of a ring's band or of a cross's bars, the radius of a star's inner corners; None is the
    plain one, other shapes have none.
    """
    axis = np.linspace(-REACH, REACH, TABLE, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    if shape == "circle":
        return np.hypot(x, y) - 1
    if shape == "ring":
        half = LINES["ring"] / 2 if line is None else line / 2
        return np.abs(np.hypot(x, y) - (1 - half)) - half
    return _polygon(_corners(shape, LINES.get(shape, 0.0) if line is None else line), x, y)


def _corners(shape: str, line: float) -> list[tuple[float, float]]:
    if shape == "square":
        return [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
    if shape == "triangle":
        return [(0.0, -1.02), (1.06, 0.84), (-1.06, 0.84)]
    if shape == "star":
        turns = [(math.tau * i / 10 - math.pi / 2, 1.15 if i % 2 == 0 else line) for i in range(10)]
        return [(r * math.cos(a), r * math.sin(a) + 0.08) for a, r in turns]
    if shape == "cross":
        a, b = line / 2, 1.0
        return [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    raise ValueError(f"no such shape: {shape}")


def _polygon(corners: list[tuple[float, float]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the nearest edge, signed by the even-odd rule."""
    nearest, inside = np.full_like(x, np.inf), np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ex * (y - ay) / ey + ax)
    return np.where(inside, -nearest, nearest).astype(np.float32)

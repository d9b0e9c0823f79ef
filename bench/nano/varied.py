"""Pictures of training that are not drawn plainly, from the same distances as the plain ones (bench.nano.render)."""

from __future__ import annotations

import math

import numpy as np

from bench.nano.render import REACH, TABLE, distances
from bench.nano.world import REACHES, SIDE, Form, Placed, Scene

DARKER = 0.6  # an outline's share of the thing's own light
OUTLINE = 0.7  # its width in pixels of a 64 pixel picture


def paint(scene: Scene) -> np.ndarray:
    """(side, side, 3) uint8, without what JPEG adds."""
    assert scene.manner is not None
    side, smooth = scene.manner.side, scene.manner.smooth
    image = np.empty((side, side, 3), np.float32)
    image[:] = scene.ground
    for placed in scene.placed:
        _add(image, placed, side / SIDE, smooth)
    return np.rint(image).astype(np.uint8)


def _add(image: np.ndarray, placed: Placed, scale: float, smooth: bool) -> None:
    form = placed.form or Form(placed.radius)
    x, y = (c * scale for c in placed.centre)
    rows, columns = (_window(c, placed.radius * scale, len(image)) for c in (y, x))
    away = _away(placed, form, np.arange(columns.start, columns.stop) - x, np.arange(rows.start, rows.stop) - y, scale)
    spot, shade = image[rows, columns], np.asarray(placed.shade, np.float32)
    _cover(spot, away, shade * DARKER if form.outlined else shade, smooth)
    if form.outlined:
        _cover(spot, away + OUTLINE * scale, shade, smooth)


def _window(centre: float, radius: float, side: int) -> slice:
    reach = radius * (REACHES + 0.1) + 2
    return slice(max(0, int(centre - reach)), max(0, min(side, int(centre + reach) + 1)))


def _away(placed: Placed, form: Form, dx: np.ndarray, dy: np.ndarray, scale: float) -> np.ndarray:
    """Pixels from the thing's edge, negative inside, at the middle of each pixel (rows, columns)."""
    assert placed.thing.shape is not None
    radius, (c, s) = placed.radius * scale, (f(math.radians(form.turn)) for f in (math.cos, math.sin))
    x, y = np.meshgrid((dx + 0.5) / radius, (dy + 0.5) / radius)
    at = [np.clip(np.rint((v + REACH) / (2 * REACH) * (TABLE - 1)), 0, TABLE - 1).astype(int)
          for v in (c * x + s * y, c * y - s * x)]  # fmt: skip
    return distances(placed.thing.shape, form.line)[at[1], at[0]] * radius


def _cover(spot: np.ndarray, away: np.ndarray, colour: np.ndarray, smooth: bool) -> None:
    covered = np.clip(0.5 - away, 0, 1) if smooth else (away < 0).astype(np.float32)
    spot += covered[..., None] * (colour - spot)

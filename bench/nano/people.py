"""Pictures as people make them, for the score alone: a few lines of PIL's ImageDraw."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from bench.nano.world import RGB, SIDE, Form, Placed, Scene

FINE = 4  # a smooth picture is drawn so many times as large
OUTLINE = 0.7  # pixels of a 64 pixel picture
Points = list[tuple[float, float]]


def paint(scene: Scene) -> np.ndarray:
    """(side, side, 3) uint8, without what JPEG adds."""
    assert scene.manner is not None
    side = scene.manner.side
    large = side * FINE if scene.manner.smooth else side
    image = Image.new("RGB", (large, large), scene.ground)
    draw = ImageDraw.Draw(image)
    for placed in scene.placed:
        _draw(draw, placed, large / SIDE)
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS) if large != side else image)


def _draw(draw: ImageDraw.ImageDraw, placed: Placed, scale: float) -> None:
    form, colour = placed.form or Form(placed.radius), placed.shade
    x, y, r = (v * scale for v in (*placed.centre, placed.radius))
    around = (x - r, y - r, x + r, y + r)
    edge: RGB | None = (colour[0] // 2, colour[1] // 2, colour[2] // 2) if form.outlined else None
    line = max(1, round(OUTLINE * scale))
    shape = placed.thing.shape
    if shape == "circle":
        draw.ellipse(around, fill=colour, outline=edge, width=line)
    elif shape == "square":
        h = 0.9 * r
        draw.rectangle((x - h, y - h, x + h, y + h), fill=colour, outline=edge, width=line)
    elif shape == "ring":
        draw.ellipse(around, outline=colour, width=max(2, round((form.line or 0.5) * r)))
    elif shape == "cross":
        width = max(2, round((form.line or 0.6) * r))
        draw.line((x - r, y, x + r, y), fill=colour, width=width)
        draw.line((x, y - r, x, y + r), fill=colour, width=width)
    else:
        corners = _triangle(x, y, r) if shape == "triangle" else _star(x, y, r, form.line or 0.44)
        draw.polygon(corners, fill=colour, outline=edge, width=line)


def _triangle(x: float, y: float, r: float) -> Points:
    return [(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)]


def _star(x: float, y: float, r: float, inner: float) -> Points:
    """Five points at 1.1 r, the corners between them at `inner` r."""
    turns = [(-math.pi / 2 + math.pi / 5 * i, r * (inner if i % 2 else 1.1)) for i in range(10)]
    return [(x + d * math.cos(a), y + d * math.sin(a)) for a, d in turns]

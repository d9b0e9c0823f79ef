"""What lies in which cell of a picture: the shapes, the colours, the pairs of both, and the ground's name."""

from __future__ import annotations

import functools

import numpy as np

from bench.nano.world import BACKGROUNDS, COLOURS, SHAPES, SIDE, Placed, Scene

FACTS = (
    *((shape, None) for shape in SHAPES),
    *((None, colour) for colour in COLOURS),
    *((shape, colour) for shape in SHAPES for colour in COLOURS),
)
COUNT = len(FACTS) + len(BACKGROUNDS)
ENOUGH = 0.12  # of a thing's square, for it to lie in a cell


def facts(scene: Scene, grid: int) -> np.ndarray:
    """(grid * grid, COUNT) bool: the shapes, colours and pairs of both in each cell, row by row, then the ground's
    name."""
    out = np.zeros((grid * grid, COUNT), bool)
    for placed in scene.placed:
        out[_cells(placed, grid)] |= _of_thing(placed.thing.shape, placed.thing.colour)
    if scene.manner is None or scene.manner.named:
        out[:, len(FACTS) + list(BACKGROUNDS).index(scene.background)] = True
    return out


def _cells(placed: Placed, grid: int) -> np.ndarray:
    """(grid * grid,) bool: where enough of the square around a thing lies."""
    edges = np.arange(grid + 1) * SIDE / grid
    x, y = (_shares(centre, placed.radius, edges) for centre in placed.centre)
    return np.outer(y, x).ravel() >= ENOUGH


def _shares(centre: float, radius: float, edges: np.ndarray) -> np.ndarray:
    """Of a stretch centre +- radius, what lies between each two edges."""
    inside = np.minimum(edges[1:], centre + radius) - np.maximum(edges[:-1], centre - radius)
    return np.clip(inside, 0, None) / (2 * radius)


@functools.cache
def _of_thing(shape: str | None, colour: str | None) -> np.ndarray:
    names = {(shape, None), (None, colour), (shape, colour)}
    return np.array([*(fact in names for fact in FACTS), *(False for _ in BACKGROUNDS)])

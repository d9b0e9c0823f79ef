"""Seeds of a call: one, several, or none given."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np

from bagel_rt.errors import InputError
from bagel_rt.options import checks


def draw_seed(seed: int | None) -> int:
    """The seed itself, or a fresh one."""
    return secrets.randbits(32) if seed is None else int(seed)


def seeds_of(seed: Any, images: Any) -> list[int] | None:
    """The seeds of several pictures: those listed, or `images` of them counted up from `seed`. None: one picture."""
    checks.whole("images", images, least=1, optional=True)
    if isinstance(seed, list | tuple | range | np.ndarray):
        if not len(seed):
            raise InputError("seed is an empty list; one seed per picture is expected")
        for value in seed:
            checks.whole("seed", value, least=None)
        if images is not None and images != len(seed):
            raise InputError(f"images is {images}, and {len(seed)} seeds were given; leave images out")
        return [int(value) for value in seed]
    checks.whole("seed", seed, least=None, optional=True)
    if images is None:
        return None
    first = draw_seed(seed)
    return [first + i for i in range(images)]

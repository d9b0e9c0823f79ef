"""Seeds of a call: one, several, or none given."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from bagel_rt.errors import InputError
from bagel_rt.options import checks


def draw_seed(seed: int | None) -> int:
    """The seed itself, or a fresh one."""
    return secrets.randbits(32) if seed is None else int(seed)


def seeds_of(seed: Any, images: Any) -> list[int] | None:
    """The seeds of several pictures: those listed, or `images` of them counted up from `seed`. None: one picture."""
    images, seed = checks.whole("images", images, least=1, optional=True, most=checks.MOST), checks.plain(seed)
    if isinstance(seed, list | tuple | range | np.ndarray):
        return _listed(seed, images)
    seed = checks.whole("seed", seed, least=None, optional=True)
    if images is None:
        return None
    first = draw_seed(seed)
    return [first + i for i in range(images)]


def _listed(seeds: Sequence[Any] | np.ndarray, images: int | None) -> list[int]:
    if not len(seeds):
        raise InputError("seed is an empty list; one seed per picture is expected")
    if images is not None and images != len(seeds):
        raise InputError(f"images is {images}, and {len(seeds)} seeds were given; leave images out")
    checks.whole("the number of seeds", len(seeds), least=1, most=checks.MOST)
    return [checks.whole("seed", value, least=None) for value in seeds]

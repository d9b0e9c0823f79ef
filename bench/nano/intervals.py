"""How certain a share of right answers is, and how certain that it differs from another one of the same cases."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    p = right / count
    middle, half = p + z * z / (2 * count), z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def paired(mine: Iterable[int], theirs: Iterable[int]) -> dict[str, float]:
    """Mean difference of paired marks with its 95 % interval (normal, from the pairs' own variance)."""
    differences = np.array(list(mine), float) - np.array(list(theirs), float)
    half = 1.96 * differences.std(ddof=1) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    mean = differences.mean()
    return {
        "difference": round(float(mean), 4),
        "low": round(float(mean - half), 4),
        "high": round(float(mean + half), 4),
        "changed": int(np.abs(differences).sum()),
    }

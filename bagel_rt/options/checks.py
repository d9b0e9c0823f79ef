"""Checks of single values: each returns the value as Python's own, or says what was seen and what is expected.

numpy's scalars and arrays of no dimensions are taken wherever Python's numbers are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bagel_rt.errors import InputError
from bagel_rt.remarks import remark

LARGEST = float(np.finfo(np.float32).max)  # graphs take numbers in float32
MOST_BITS = 1024  # of an integer; very long ones could not be written into a picture's record
MOST_STOPS = 16
MOST = 1_000_000  # pictures of a call, points of a schedule: more is a slip, and would fill the memory with numbers


def plain(value: Any) -> Any:
    """Python's own value of a numpy scalar or an array of no dimensions; anything else as it is."""
    single = isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0)
    return value.item() if single else value


def shown(value: Any) -> str:
    """A value for a message: on one line, and cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer of thousands of digits, an object that cannot describe itself
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 80 else text[:77] + "..."


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, optional: bool = False) -> Any:
    """A float that float32 holds, from `low` to `high`."""
    value = plain(value)
    if optional and value is None:
        return None
    real = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
    if not real or not abs(value) <= LARGEST or not low <= value <= high:
        span = "" if math.isinf(low) else f" of {low:g} or more" if math.isinf(high) else f" from {low:g} to {high:g}"
        large = f" (up to {LARGEST:.2g}, as float32 has)" if real and LARGEST < abs(value) < math.inf else ""
        raise InputError(f"{name} is {shown(value)}; a finite number{span}{large} is expected")
    return float(value)


def adapters(name: str, value: Any) -> Any:
    """How much of each adapter: given as a name, as a mapping of names to numbers, or in words, "style=0.8,faces=1"."""
    if value is None:
        return None
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",")]
        value = {key.strip(): scale.strip() if equals else 1.0 for key, equals, scale in parts}
    if not isinstance(value, Mapping) or not value or not all(isinstance(key, str) and key for key in value):
        raise InputError(
            f"{name} is {shown(value)}; a loaded adapter's name, or a mapping of names to numbers is expected"
        )
    return {key: number(f"{name} {key!r}", _numeral(scale)) for key, scale in value.items()}


def _numeral(value: Any) -> Any:
    """A number that may be written in words."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def positive(name: str, value: Any, optional: bool = False) -> Any:
    found = number(name, value, optional=optional)
    if found is not None and found <= 0:
        raise InputError(f"{name} is {found!r}; a number above 0 is expected")
    return found


def share(name: str, value: Any, optional: bool = False) -> Any:
    """A number above 0 and up to 1."""
    found = number(name, value, 0.0, 1.0, optional)
    if found == 0:
        raise InputError(f"{name} is 0; a number above 0 and up to 1 is expected")
    return found


def shift(name: str, value: Any) -> float:
    """A timestep shift. Below 1e-6 the schedule, computed in float32, would divide by zero."""
    if positive(name, value) < 1e-6:
        raise InputError(f"{name} is {shown(plain(value))}; a number of 1e-06 or more is expected")
    return float(value)


def sampling(temperature: float, do_sample: bool) -> None:
    """Greedy text ignores the temperature; sampling divides by it."""
    if do_sample and temperature == 0:
        raise InputError("text_temperature is 0 with do_sample; a number above 0, or no do_sample, is expected")


def whole(name: str, value: Any, least: int | None, optional: bool = False, most: int | None = None) -> Any:
    """An int of `least` or more, and of `most` or less."""
    value = plain(value)
    if optional and value is None:
        return None
    right = isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= MOST_BITS
    if not right or (least is not None and value < least):
        span = "" if least is None else f" of {least} or more"
        raise InputError(f"{name} is {shown(value)}; an integer{span} is expected")
    if most is not None and value > most:
        raise InputError(f"{name} is {shown(value)}; an integer of {most} or less is expected")
    return int(value)


def threads(name: str, value: Any) -> int | None:
    """Threads of an engine: as many as the machine has CPUs at most, which is remarked on; None as it is."""
    found, most = whole(name, value, least=1, optional=True), os.cpu_count() or 1
    if found is None or found <= most:
        return found
    remark(f"{name} is {found}, this machine has {most} CPUs: {most} are used")
    return most


def flag(name: str, value: Any) -> bool:
    value = plain(value)
    if not isinstance(value, bool):
        raise InputError(f"{name} is {shown(value)}; True or False is expected")
    return value


def text(name: str, value: Any, optional: bool = False) -> Any:
    value = plain(value)
    if optional and value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"{name} must be a str, not {type(value).__name__}")
    return str(value)


def stops(name: str, value: Any) -> tuple[str, ...] | None:
    """A text, or up to 16 of them, none of them empty; without any: None."""
    given = value.tolist() if isinstance(value, np.ndarray) else value
    given = [given] if isinstance(given, str) else given
    if given is None or given == [] or given == ():
        return None
    if not isinstance(given, list | tuple) or len(given) > MOST_STOPS:
        raise InputError(f"{name} is {shown(value)}; up to {MOST_STOPS} texts are expected")
    found = tuple(text(f"{name}[{i}]", one) for i, one in enumerate(given))
    if not all(found):
        raise InputError(f"{name} is {shown(value)}; texts of one character or more are expected")
    return found


def path(name: str, value: Any) -> str | Path:
    if not isinstance(value, str | Path):
        raise InputError(f"{name} must be a str or a pathlib.Path, not {type(value).__name__}")
    return value


def choice(name: str, value: Any, allowed: Sequence[str], optional: bool = False) -> Any:
    value = plain(value)
    if optional and value is None:
        return None
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{name} is {shown(value)}; allowed: {', '.join(allowed)}")
    return str(value)


def interval(name: str, value: Any) -> tuple[float, float]:
    try:
        low, high = value
    except (TypeError, ValueError):
        raise InputError(f"{name} is {shown(value)}; two numbers 0 <= lo <= hi <= 1 are expected") from None
    low, high = number(name, low, 0.0, 1.0), number(name, high, 0.0, 1.0)
    if low > high:
        raise InputError(f"{name} is {(low, high)!r}; the lower bound must not be above the upper one")
    return low, high


def step_mask(name: str, value: Any) -> str | None:
    """Digits 0 and 1, the first of them 1."""
    found = text(name, value, optional=True)
    if found is not None and (not found.startswith("1") or set(found) - {"0", "1"}):
        raise InputError(f"{name} is {shown(found)}; digits 1 (evaluated) and 0 (forecast) are expected, the first a 1")
    return found


def mask(name: str, value: Any) -> np.ndarray | None:
    """(H, W) booleans, as inputs/masks.py opens a picture."""
    if value is not None and not (isinstance(value, np.ndarray) and value.dtype == bool and value.ndim == 2):
        raise InputError(f"{name} must be a picture or an array of booleans (H, W), not {type(value).__name__}")
    return value


def noise(name: str, value: Any) -> np.ndarray | None:
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.ndim != 2 or not np.issubdtype(value.dtype, np.floating):
        raise InputError(f"{name} must be a float array of shape (h * w, 64)")
    with np.errstate(over="ignore"):
        numbers = value.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise InputError(f"{name} holds numbers that are not finite, or not in float32")
    return numbers

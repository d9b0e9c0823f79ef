"""Checks of single option values: each says what was seen and what is expected."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bagel_rt.errors import InputError


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    real = isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not low <= value <= high:
        span = "" if math.isinf(low) else f" of {low:g} or more" if math.isinf(high) else f" from {low:g} to {high:g}"
        raise InputError(f"{name} is {value!r}; a finite number{span} is expected")


def positive(name: str, value: Any, optional: bool = False) -> None:
    if optional and value is None:
        return
    number(name, value)
    if value <= 0:
        raise InputError(f"{name} is {value!r}; a number above 0 is expected")


def temperature(value: Any, do_sample: bool) -> None:
    """Greedy text ignores the temperature; sampling divides by it."""
    number("text_temperature", value, 0.0)
    if do_sample and value == 0:
        raise InputError("text_temperature is 0 with do_sample; a number above 0, or no do_sample, is expected")


def whole(name: str, value: Any, least: int | None, optional: bool = False) -> None:
    if optional and value is None:
        return
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or (least is not None and value < least):
        span = "" if least is None else f" of {least} or more"
        raise InputError(f"{name} is {value!r}; an integer{span} is expected")


def flag(name: str, value: Any) -> None:
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} is {value!r}; True or False is expected")


def text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InputError(f"{name} must be a str, not {type(value).__name__}")


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")


def interval(value: Any) -> None:
    try:
        low, high = value
    except (TypeError, ValueError):
        raise InputError(f"cfg_interval is {value!r}; two numbers 0 <= lo <= hi <= 1 are expected") from None
    number("cfg_interval", low, 0.0, 1.0)
    number("cfg_interval", high, 0.0, 1.0)
    if low > high:
        raise InputError(f"cfg_interval is {value!r}; the lower bound must not be above the upper one")


def noise(value: Any) -> None:
    if not isinstance(value, np.ndarray) or value.ndim != 2 or not np.issubdtype(value.dtype, np.floating):
        raise InputError("noise must be a float array of shape (h * w, 64)")
    if not np.isfinite(value).all():
        raise InputError("noise holds numbers that are not finite")

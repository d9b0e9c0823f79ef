"""Errors that hold nothing: a caller may keep one for long, and a traceback keeps the variables of all its frames."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def bare(error: BaseException) -> None:
    """Forget the variables of every finished frame of an error and of what caused it; file names and lines stay."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            waiting += [one.__cause__, one.__context__]


def bare_errors(call: Callable[P, R]) -> Callable[P, R]:
    """A public call whose errors hold neither the model nor what was given to it."""

    @wraps(call)
    def edge(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            bare(error)
            raise

    return edge

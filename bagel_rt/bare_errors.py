"""Errors that hold nothing: a caller may keep one for long, and a traceback keeps the variables of all its frames."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import CO_GENERATOR
from types import FrameType
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
            place = one.__traceback__
            while place is not None:
                _clear(place.tb_frame)
                place = place.tb_next
            waiting += [one.__cause__, one.__context__]


def _clear(frame: FrameType | None) -> None:
    """Forget a finished frame's variables, and those of its callers that are finished: a frame keeps them, too, where
    the error was caught and raised again elsewhere.

    Callers that are generators are left alone: a waiting one, of a neighbour's stream, would be closed.
    """
    first = frame
    while frame is not None and (frame is first or not frame.f_code.co_flags & CO_GENERATOR):
        try:
            frame.clear()
        except RuntimeError:  # it is running
            return
        frame = frame.f_back


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

"""One request of a batch, done: its result or what went wrong, wherever it is computed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bagel_rt.cli.jsonl_requests import Request, hash_of
from bagel_rt.conversation.streaming import drain
from bagel_rt.errors import BagelError, InputError
from bagel_rt.options import presets

if TYPE_CHECKING:
    from bagel_rt.api import Bagel


@dataclass(frozen=True)
class Answer:
    """result: an ImageResult, a list of them, or a TextResult; None where there is an error."""

    request: Request
    result: Any = None
    error: str | None = None
    seconds: float = 0.0


def answered(bagel: Bagel, request: Request, images: Sequence[Any] | None = None) -> Answer:
    """Do a request. Whatever goes wrong is in the answer: the next request may be one that can be done.

    images: in place of the request's files, which lie elsewhere.
    """
    started = time.perf_counter()
    try:
        result = _done(bagel, request, checked_images(request) if images is None else images)
    except Exception as error:
        return Answer(request, error=words_for(error), seconds=time.perf_counter() - started)
    return Answer(request, result, seconds=time.perf_counter() - started)


def checked_images(request: Request) -> Sequence[Any]:
    """The paths of a request's images. Raises InputError for a file that was changed since the batch had begun."""
    for path, hashed in zip(request.images, request.hashes, strict=False):
        if hash_of(path) != hashed:
            raise InputError(f"{path}: was changed after the batch had begun")
    return request.images


def words_for(error: Exception) -> str:
    """For a results file: of a library's errors the kind, too."""
    return str(error) if isinstance(error, BagelError) else f"{type(error).__name__}: {error}"


def _done(bagel: Bagel, request: Request, images: Sequence[Any]) -> Any:
    output = "text" if request.task == presets.ASK else "image"
    return drain(bagel.stream([*images, request.prompt], output, preset=request.preset, **request.options))

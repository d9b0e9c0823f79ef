"""What a stream yields while text is written and pictures are drawn. Every event has `stage`, `done` and `total`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from bagel_rt.asks import Alone, Ask, TextRows, answer_alone

if TYPE_CHECKING:
    from bagel_rt.results import ImageResult, ReasonResult, TextResult


@dataclass(frozen=True)
class TextPiece:
    """One more token was written: `done` of at most `total`.

    `text` is what can be read since the last piece: whole characters, "" while one is incomplete. All pieces of a
    stage together are the text of the result.
    """

    stage: str  # "thinking", "answering" or "reasoning"
    done: int
    total: int
    text: str


@dataclass(frozen=True)
class Step:
    """One more step of the sampler was taken: `done` of `total`. bagel.preview(step) shows the picture so far."""

    done: int
    total: int
    t: float  # the time reached: 1 is noise, 0 the picture
    x: np.ndarray  # (h * w, 64) float32, the latents at t
    velocity: np.ndarray  # (h * w, 64) float32, guided, of the step that led here
    grid: tuple[int, int]  # (h, w) in latent cells
    stage: str = "drawing"

    @property
    def clean(self) -> np.ndarray:
        """(h * w, 64): the latents that x would reach at time 0 if the velocity stayed as it is."""
        return self.x - np.float32(self.t) * self.velocity

    def __repr__(self) -> str:
        return f"Step({self.done} of {self.total}, t={self.t:.4g}, grid {self.grid[0]}x{self.grid[1]})"


@dataclass(frozen=True)
class Progress:
    """Work that has nothing to show yet: "decoding" of the latents into pixels; "waiting" in line for room, twice a
    second: so many of those before it have begun; to the `on_progress` of load alone "loading ..." of a graph: so many
    bytes of its weights are on the device."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class ImageReady:
    """A picture is finished: the `done`-th of `total`."""

    result: ImageResult
    done: int = 1
    total: int = 1
    stage: str = "image"

    def __repr__(self) -> str:
        return f"ImageReady({self.done} of {self.total}, {self.result!r})"


@dataclass(frozen=True)
class Done:
    """The last event: `result` is what the plain call returns (a list where several pictures were asked for)."""

    result: ImageResult | TextResult | ReasonResult | list[ImageResult]
    done: int = 1
    total: int = 1
    stage: str = "done"

    def __repr__(self) -> str:
        return f"Done({f'{len(self.result)} pictures' if isinstance(self.result, list) else repr(self.result)})"


Event = TextPiece | Step | Progress | ImageReady | Done

Result = TypeVar("Result")
# one piece of work for a user: yields events, and asks that are to be answered, and returns its result
Turn = Generator[Event | Ask, Any, Result]
OnProgress = Callable[[Event], object] | None


def finished(turn: Generator[Any, Any, Result], on_event: OnProgress = None) -> Result:
    """Run a turn to its end without taking the model's lock (the caller holds it, or nobody else is there)."""
    answer, failure = None, None
    while True:
        try:
            item = turn.send(answer) if failure is None else turn.throw(failure)
        except StopIteration as end:
            return end.value
        answer, failure = None, None
        if isinstance(item, TextRows | Alone):
            try:
                answer = answer_alone(item)
            except Exception as error:
                failure = error
        elif on_event is not None:
            on_event(item)

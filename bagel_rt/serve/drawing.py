"""A picture's work for an answer: events of the model become previews, progress, words and encoded pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bagel_rt.events import Done, Event, ImageReady, Step, TextPiece
from bagel_rt.files import picture_records
from bagel_rt.options import checks
from bagel_rt.results import ImageResult
from bagel_rt.serve.failures import refused
from bagel_rt.serve.hub import Hub
from bagel_rt.serve.work import Work

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {"png": "PNG", "jpeg": "JPEG", "jpg": "JPEG", "webp": "WEBP"}
MOST_PREVIEWS = 16  # OpenAI's clients ask for 3 at most


@dataclass(frozen=True)
class Form:
    """How pictures are sent: format, compression, as base64 or as a data URL, and how many previews come before."""

    format: str = "png"
    compression: int | None = None
    url: bool = False
    previews: int = 0
    progress: bool = False

    @property
    def mime(self) -> str:
        return f"image/{self.format}"


@dataclass(frozen=True)
class Preview:
    """The `index`-th picture on the way to the `picture`-th one of the request."""

    data: str  # base64
    index: int
    picture: int
    size: str


@dataclass(frozen=True)
class Progress:
    """`done` of `total` of a stage: thinking, drawing, decoding."""

    stage: str
    done: int
    total: int
    picture: int


@dataclass(frozen=True)
class Words:
    """A piece of text: of an answer, or of a plan (stage "thinking")."""

    stage: str
    text: str
    first: bool = False  # of a text


@dataclass(frozen=True)
class Picture:
    """A finished picture, encoded."""

    data: str  # base64
    result: ImageResult

    @property
    def size(self) -> str:
        return f"{self.result.image.width}x{self.result.image.height}"

    @property
    def plan(self) -> str | None:
        """What was thought before, without the marks around it."""
        return None if self.result.text is None else bare_plan(self.result.text)


def form_of(own: dict[str, Any]) -> Form:
    """How the pictures of a request are to be sent. Raises ApiError and InputError."""
    name = own.get("output_format", "png")
    if not isinstance(name, str) or name not in FORMATS:
        raise refused(f"output_format is {checks.shown(name)}; allowed: png, jpeg, webp", "output_format")
    answer = own.get("response_format", "b64_json")
    if answer not in ("b64_json", "url"):
        raise refused(f"response_format is {checks.shown(answer)}; allowed: b64_json, url", "response_format")
    return Form(
        "jpeg" if name == "jpg" else name,
        checks.whole("output_compression", own.get("output_compression"), least=0, optional=True, most=100),
        answer == "url",
        checks.whole("partial_images", own.get("partial_images", 0), least=0, most=MOST_PREVIEWS),
        checks.flag("progress", own.get("progress", False)),
    )


def drawn(hub: Hub, events: Generator[Event, None, None], form: Form) -> Work:
    """The events of a call, or a session's turn, as pieces of an answer: Words, Progress, Preview, Picture.

    Previews and pictures are decoded and encoded here, on the worker; between them the model is free for others.
    """
    finished = previews = 0
    with closing(hub.watched(events)) as watched:
        for event in watched:
            if isinstance(event, Step):
                hub.meters.steps.inc()
                if form.previews and event.done in _moments(event.total, form.previews):
                    image = hub.bagel.preview(event)
                    yield Preview(encoded(image, form), previews, finished, f"{image.width}x{image.height}")
                    previews += 1
            if isinstance(event, TextPiece):
                hub.meters.tokens.inc()
                yield Words(event.stage, event.text, event.done == 0)
            elif isinstance(event, ImageReady):
                hub.meters.pictures.inc()
                yield Picture(encoded(event.result.image, form, event.result), event.result)
                finished, previews = finished + 1, 0
            elif not isinstance(event, Done):
                yield Progress(event.stage, event.done, event.total, finished)


def _moments(total: int, previews: int) -> set[int]:
    """The steps after which a preview is decoded: evenly spread, none at the last."""
    return {max(1, round(total * i / (previews + 1))) for i in range(1, previews + 1)} - {total}


def encoded(image: Image, form: Form, result: ImageResult | None = None) -> str:
    """A picture as base64 text. A finished one carries its settings, as files of the library do."""
    stream, extra = io.BytesIO(), {}
    if result is not None:
        extra = picture_records.arguments(Path(f"picture.{form.format}"), result.metadata())
    if form.compression is not None and form.format != "png":
        extra["quality"] = max(1, 100 - form.compression)
    image.save(stream, FORMATS[form.format], **extra)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def bare_plan(text: str) -> str:
    """A plan without <think> and </think>."""
    return text.strip().removeprefix("<think>").partition("</think>")[0].strip()

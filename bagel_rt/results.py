"""What a call returns."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from bagel_rt.errors import InputError
from bagel_rt.files import picture_records
from bagel_rt.files.output_files import check_file, write_by, write_to_free
from bagel_rt.files.typed_paths import typed_path
from bagel_rt.remarks import remark
from bagel_rt.version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ImageResult:
    """A picture with all that made it. A notebook shows the picture; printed it is one line; it can be pickled."""

    image: Image
    text: str | None  # the think text, None without thinking
    latent: np.ndarray  # (h * w, 64) float32, before the VAE
    seed: int
    options: dict[str, Any]  # every option as used, height, width and seed filled in
    prompt: str = ""
    model: str = ""  # name and fingerprint of the artefact
    engine: str = ""  # engine, version, device, arithmetic

    def __repr__(self) -> str:
        size = f"{self.image.width}x{self.image.height}"
        return f"ImageResult({size}, seed {self.seed}, {_short(self.prompt)})"

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        stream = io.BytesIO()
        self.image.save(stream, "PNG")
        return stream.getvalue()

    def save(self, path: str | Path, metadata: bool = True) -> None:
        """Write the picture; it carries prompt, options, seed, model and engine unless metadata is False.

        PNG, JPEG, WebP and TIFF carry them; for BMP, which cannot, a BagelWarning says so. The file appears whole or
        not at all. Raises InputError for a place or a format that cannot be written, OutputError for a disk that fails.
        """
        path = typed_path(path)
        check_image_target(path)
        extra = self._settings(path, metadata)
        write_by(path, lambda partial: self.image.save(partial, **extra))

    def save_to_free(self, names: Iterator[Path], metadata: bool = True) -> Path:
        """As save, to the first of the names that nothing has, whoever else looks for one now; returns that name."""
        first = next(names)
        extra = self._settings(first, metadata)
        return write_to_free(chain([first], names), lambda partial: self.image.save(partial, **extra))

    def _settings(self, path: Path, metadata: bool) -> dict[str, Any]:
        """Arguments of Image.save."""
        if not metadata:
            return {}
        record = self.metadata()
        if lost := picture_records.why_not_kept(path, record):
            remark(f"{lost}; metadata=False says nothing")
        return picture_records.arguments(path, record)

    def metadata(self) -> dict[str, Any]:
        """What a picture's file stores: enough to draw the same picture again."""
        return {
            "prompt": self.prompt,
            "text": self.text,
            "seed": self.seed,
            "options": self.options,
            "model": self.model,
            "engine": self.engine,
            "bagel_rt": __version__,
        }


@dataclass(frozen=True)
class TextResult:
    """A text that was written. print() shows the text."""

    text: str  # the official decoded string: not stripped, "" when nothing was generated
    token_ids: list[int]  # as the official code returns them: im_start, then the tokens without the stop token
    seed: int

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"TextResult({_short(self.text)}, {len(self.token_ids)} tokens, seed {self.seed})"


@dataclass(frozen=True, eq=False)
class ReasonResult(Sequence["TextResult | ImageResult"]):
    """What a model thought in words and pictures: a sequence of texts and pictures, in order. print() shows the texts.

    Turn n can be made again alone: each part has its own seed.
    """

    parts: tuple[TextResult | ImageResult, ...]
    answer: str  # what stands in the style's answer tags in the last text, else all of that text
    stopped: str  # why: "answered", "no picture was asked for", "max_pictures" or "most_turns"
    style: str  # its name
    seed: int
    options: dict[str, Any]  # as used: max_pictures, and those of the texts
    prompt: str = ""
    model: str = ""
    engine: str = ""
    failures: tuple[str, ...] = ()  # why pictures were left out, where the style allows that

    @overload
    def __getitem__(self, index: int) -> TextResult | ImageResult: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[TextResult | ImageResult, ...]: ...

    def __getitem__(self, index):
        return self.parts[index]

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def texts(self) -> list[TextResult]:
        return [part for part in self.parts if isinstance(part, TextResult)]

    @property
    def pictures(self) -> list[ImageResult]:
        return [part for part in self.parts if isinstance(part, ImageResult)]

    def __str__(self) -> str:
        return "\n".join(
            part.text if isinstance(part, TextResult) else f"[picture, seed {part.seed}]" for part in self.parts
        )

    def __repr__(self) -> str:
        counts = f"{len(self.texts)} texts, {len(self.pictures)} pictures"
        return f"ReasonResult({counts}, {self.stopped}, answer {_short(self.answer)})"

    def record(self, pictures: Sequence[str]) -> dict[str, Any]:
        """Everything but the pixels, as JSON values. pictures: a file name for each picture."""
        names = iter(pictures)
        parts = [
            {"text": part.text, "tokens": len(part.token_ids), "seed": part.seed}
            if isinstance(part, TextResult)
            else {"picture": next(names), "seed": part.seed, "options": part.options}
            for part in self.parts
        ]
        kept = ("prompt", "answer", "stopped", "style", "seed", "options", "model", "engine")
        return {
            **{name: getattr(self, name) for name in kept},
            "failures": list(self.failures),
            "parts": parts,
            "bagel_rt": __version__,
        }


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def check_image_target(path: Path) -> None:
    """Refuse, before any work, a picture file that cannot be written."""
    picture_records.format_of(path)
    check_file(path)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The record stored in a picture. Raises InputError when there is none."""
    from bagel_rt.inputs.pictures import decode_file

    path = typed_path(path)
    try:
        record = picture_records.record_in(decode_file(path))
    except picture_records.DamagedRecord as error:
        raise InputError(f"{path}: its bagel-rt record is damaged: {error}") from None
    if record is None:
        raise InputError(
            f"{path}: holds no bagel-rt record (made by another program, with --no-metadata, or as a BMP, which keeps"
            " none)"
        )
    return record

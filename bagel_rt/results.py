"""What a call returns."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bagel_rt.errors import InputError
from bagel_rt.version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

METADATA_KEY = "bagel_rt"


@dataclass(frozen=True)
class ImageResult:
    image: Image
    text: str | None  # the think text, None without thinking
    latent: np.ndarray  # (h * w, 64) float32, before the VAE
    seed: int
    options: dict[str, Any]  # every option as used, height, width and seed filled in
    prompt: str = ""
    model: str = ""  # name and fingerprint of the artefact
    engine: str = ""  # engine, version, device, arithmetic

    def save(self, path: str | Path, metadata: bool = True) -> None:
        """Write the picture; a PNG carries prompt, options, seed, model and engine unless metadata is False.

        The file appears whole or not at all. Raises InputError for a folder that is not there or an unknown format.
        """
        path = Path(path)
        check_image_target(path)
        extra: dict[str, Any] = {}
        if metadata and path.suffix.lower() == ".png":
            extra["pnginfo"] = _png_info(self.metadata())
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}{path.suffix}")
        try:
            self.image.save(partial, **extra)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def metadata(self) -> dict[str, Any]:
        """What a PNG stores: enough to draw the same picture again."""
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
    text: str  # the official decoded string: not stripped, "" when nothing was generated
    token_ids: list[int]  # as the official code returns them: im_start, then the tokens without the stop token
    seed: int


def check_image_target(path: Path) -> None:
    """Refuse, before any work, a target that cannot be written."""
    from PIL import Image as pil

    pil.init()
    allowed = sorted(ext for ext, kind in pil.EXTENSION.items() if kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"))
    if path.suffix.lower() not in allowed:
        raise InputError(f"{path}: unknown image format {path.suffix!r}; allowed: {', '.join(allowed)}")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder; make it first")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The record stored in a PNG. Raises InputError when there is none."""
    from bagel_rt.inputs.pictures import decode_file

    info = decode_file(Path(path)).info.get(METADATA_KEY)
    if not isinstance(info, str):
        raise InputError(f"{path}: holds no bagel-rt record (made by another program, or with --no-metadata)")
    try:
        return json.loads(info)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: its bagel-rt record is damaged: {error}") from None


def _png_info(record: dict[str, Any]):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(METADATA_KEY, json.dumps(record, ensure_ascii=False))
    return info

"""The shapes of an artefact's tensors, from the headers of its weight files alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

from bagel_rt.errors import ArtefactError
from bagel_rt.manifest import Manifest

LONGEST_HEADER = 100 << 20  # bytes; the format's own limit


def tensor_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape by its name in the file. Raises ArtefactError for a file that is not safetensors."""
    found: dict[str, tuple[int, ...]] = {}
    for name in manifest.files:
        if name.endswith(".safetensors"):
            found |= _header(manifest.folder / name)
    return found


def length_of(shapes: dict[str, tuple[int, ...]], ending: str) -> int | None:
    """How many numbers the tensor with this end of a name has; None where there is none."""
    return next((math.prod(shape) for name, shape in shapes.items() if name.endswith(ending)), None)


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > LONGEST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            entries = json.loads(stream.read(size))
        return {name: tuple(entry["shape"]) for name, entry in entries.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(f"{path}: not readable as safetensors ({error}); export the model again") from None

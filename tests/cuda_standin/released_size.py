"""An artefact of the released size whose weight files are holes: to count what it takes over the stand-in.

python -m tests.cuda_standin.released_size OUT PRECISION ARITHMETIC LAYERS
such as fp16 fp16 2, int8 fp16 4; not one that is calibrated.

Graphs and headers are those of an export; next to nothing on the disk. 28 layers take many minutes to trace: count 2
and 4, and what each of the other 24 takes is known.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from bagel_engines.claims import IN_USE
from bagel_export.artefact import export as exporting
from bagel_export.checkpoint.synthetic import RELEASED
from bagel_export.quantization.recipe import Recipe
from bagel_export.weights import write
from bench.released import hollow_checkpoint


def hollow_weights(tensors: Mapping[str, Any], path: Path, recipe: Recipe) -> Generator[int, None, dict[str, int]]:
    """Stands for write.write_weights."""
    header, position = {}, 0
    for part in (part for tensor in tensors.values() for part in write.parts_of(tensor, recipe[tensor.name])):
        header[part.name] = part.header(position)
        position += part.nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-(8 + len(text)) % write.ALIGNMENT)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    first = 8 + len(text)
    os.truncate(path, first + position)
    yield position
    return {name: first + entry["data_offsets"][0] for name, entry in header.items()}


def no_hashes(folder: Path) -> Generator[Any, None, dict[str, Any]]:
    """Stands for export._files: the holes' bytes are not read."""
    yield from ()
    files = (path for path in sorted(folder.iterdir()) if path.name != IN_USE)
    return {path.name: {"size": path.stat().st_size, "sha256": "0" * 64} for path in files}


def main(out: str, precision: str, arithmetic: str, layers: str) -> None:
    exporting.write_weights, exporting._files = hollow_weights, no_hashes  # type: ignore[assignment]
    shape = RELEASED.with_llm(num_hidden_layers=int(layers))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = hollow_checkpoint(Path(folder) / "checkpoint", shape)
        for step in exporting.export(checkpoint, out, precision=precision, arithmetic=arithmetic, verify=False):
            print(step.stage, step.detail, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

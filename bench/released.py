"""An artefact of the released size without its numbers: graphs, manifest, tokenizer, and the headers of weight files.

It is exported from a checkpoint whose weight files are holes, so neither disk nor memory holds 29 GB. `filled` makes it
whole, with random numbers, on the machine where it is measured.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from bagel_export.artefact.export import export
from bagel_export.checkpoint.shards import VAE_WEIGHTS, WEIGHTS
from bagel_export.checkpoint.synthetic import RELEASED, Shape, safetensors_header, without_weights

HEAD = ".head"
DEVIATION = 0.02  # standard deviation of the random weights
DRAWN = 1 << 22  # numbers drawn, then repeated


def hollow_checkpoint(folder: Path, shape: Shape = RELEASED) -> Path:
    """A checkpoint in the official layout whose tensors are all zero and take no room on the disk."""
    model, vae = without_weights(folder, shape)
    _hollow(folder / WEIGHTS, *safetensors_header(model.state_dict(), shape.dtype))
    _hollow(folder / VAE_WEIGHTS, *safetensors_header(vae.state_dict(), shape.dtype))
    return folder


def _hollow(path: Path, header: bytes, size: int) -> None:
    path.write_bytes(header)
    os.truncate(path, len(header) + size)


def headed(artefact: Path, out: Path) -> Path:
    """An artefact's files, of weight files the header alone."""
    out.mkdir(parents=True)
    for path in sorted(artefact.iterdir()):
        if path.suffix == ".safetensors":
            with path.open("rb") as stream:
                (out / (path.name + HEAD)).write_bytes(_header(stream))
        elif path.is_file():
            shutil.copyfile(path, out / path.name)
    return out


def _header(stream: IO[bytes]) -> bytes:
    length = stream.read(8)
    return length + stream.read(int.from_bytes(length, "little"))


def exported(folder: Path, shape: Shape = RELEASED) -> Path:
    """A bf16 artefact of that size, without numbers, in folder / "released"."""
    checkpoint = hollow_checkpoint(folder / "hollow", shape)
    for _ in export(checkpoint, folder / "whole", precision="bf16", weights="link", verify=False):
        pass
    made = headed(folder / "whole", folder / "released")
    shutil.rmtree(folder / "whole")
    shutil.rmtree(checkpoint)
    return made


def filled(folder: Path, out: Path) -> Path:
    """The artefact with random numbers in the place of those left out: norms are ones, the rest is normal."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.suffix != HEAD:
            shutil.copyfile(path, out / path.name)
            continue
        header = path.read_bytes()
        with (out / path.name.removesuffix(HEAD)).open("wb") as stream:
            stream.write(header)
            for block in _numbers(json.loads(header[8:])):
                stream.write(block)
    return out


def _numbers(header: dict) -> Iterator[memoryview]:
    """The bytes of a file's tensors, in order."""
    drawn = np.random.default_rng(0).standard_normal(DRAWN, np.float32) * np.float32(DEVIATION)
    ones = np.ones(DRAWN, np.float32)
    header.pop("__metadata__", None)
    for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        is_norm = "norm" in name and name.endswith("weight")
        block = _as(tensor["dtype"], ones if is_norm else drawn)
        left = tensor["data_offsets"][1] - tensor["data_offsets"][0]
        while left > 0:
            yield memoryview(block)[:left]
            left -= len(block)


def _as(dtype: str, values: np.ndarray) -> bytes:
    """float32 numbers as the bytes of a safetensors type; of whole numbers, zeros."""
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    if dtype in ("F32", "F16"):
        return values.astype({"F32": np.float32, "F16": np.float16}[dtype]).tobytes()
    return bytes(values.nbytes)

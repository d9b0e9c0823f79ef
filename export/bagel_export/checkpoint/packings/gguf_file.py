"""Weights in a GGUF file, floats and every block form that the package `gguf` unpacks: Q8_0 to IQ4_XS.

Such a file holds weights alone, under BAGEL's names: configs, tokenizer and VAE come from a folder (--base).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bagel_export.checkpoint.packings.packed import PackedTensor
from bagel_rt.errors import CheckpointError

EXTRA = "pip install 'bagel-rt[gguf]'"
ORIGINAL = "comfy.gguf.orig_shape."  # ComfyUI-GGUF's: the shape of a tensor that was reshaped to be packed
PLAIN = {"F32": "F32", "F16": "F16", "BF16": "BF16"}


def read_gguf(path: Path) -> dict[str, PackedTensor]:
    """Every tensor of a GGUF file by its key; values are mapped, not read, but for one row of each type.

    Raises CheckpointError for a file that is none or is cut off, a type that cannot be unpacked, and where the package
    gguf is missing.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{path}: reading a GGUF file needs {error.name}; run: {EXTRA}") from None
    try:
        reader = GGUFReader(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: file not found") from None
    except Exception as error:  # the reader has no errors of its own: whatever breaks first on bytes that do not fit
        raise CheckpointError(f"{path}: not a GGUF file, or cut off: {error}") from None
    found = {str(tensor.name): _packed(path, reader, tensor) for tensor in reader.tensors}
    _check_types(path, found, {str(tensor.name): tensor.tensor_type.name for tensor in reader.tensors})
    return found


def _packed(path: Path, reader: Any, tensor: Any) -> PackedTensor:
    shape = tuple(int(n) for n in reversed(tensor.shape))
    original = reader.fields.get(f"{ORIGINAL}{tensor.name}")
    if original is not None:
        stated = tuple(int(original.parts[i][0]) for i in original.data)
        if np.prod(stated) != np.prod(shape):
            raise CheckpointError(
                f"{path}: key '{ORIGINAL}{tensor.name}' says {list(stated)}; the tensor has shape {list(shape)}"
            )
        shape = stated
    kind = tensor.tensor_type
    read = partial(_rows, tensor.data, kind, shape)
    return PackedTensor(path, str(tensor.name), shape, f"GGUF {kind.name}", read, PLAIN.get(kind.name, "F32"))


def _check_types(path: Path, found: dict[str, PackedTensor], types: dict[str, str]) -> None:
    """Unpack a row of each type that is there, to know before the export begins that it can be."""
    for kind, name in {kind: name for name, kind in types.items()}.items():
        try:
            if found[name].count:
                found[name].rows(0, 1)
        except NotImplementedError:
            raise CheckpointError(
                f"{path}: tensor '{name}' has type {kind}, which the package gguf does not unpack; use another"
                " quantisation of the model, such as Q8_0 or Q4_K_M"
            ) from None


def _rows(data: np.ndarray, kind: Any, shape: tuple[int, ...], start: int, stop: int) -> np.ndarray:
    from gguf import quants

    stored = data.reshape(-1, data.shape[-1])  # a stored row is whole blocks
    if len(stored) == (shape[0] if shape else 1):
        return np.array(quants.dequantize(stored[start:stop], kind), np.float32)
    return quants.dequantize(stored, kind).reshape(shape[0], -1)[start:stop].astype(np.float32)

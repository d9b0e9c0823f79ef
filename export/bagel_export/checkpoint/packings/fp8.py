"""Weights in 8-bit floats (e4m3, e5m2): with the scales of ComfyUI, of compressed-tensors, of DeepSeek, or with none.

Every kind of scale is multiplied with, also those called `_scale_inv`: that is the inverse of what the numbers were
multiplied with before they were rounded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import numpy as np

from bagel_export.checkpoint.packings.packed import PackedTensor, Split, floats, without, wrong_shape
from bagel_export.checkpoint.packings.stated import quantization_config
from bagel_rt.errors import CheckpointError
from bagel_rt.files.safetensors_file import PACKED_DTYPES, StoredTensor

KINDS = {"F8_E4M3": "fp8 (e4m3)", "F8_E5M2": "fp8 (e5m2)"}
WEIGHT = ".weight"
SCALES = (".scale_weight", ".weight_scale", ".weight_scale_inv")  # behind a module's name
# of the rows that meet the weight: engines that multiply in fp8 use them, this export rounds rows by its own rule
OF_INPUTS = (".scale_input", ".input_scale")
NOTE = ".comfy_quant"  # ComfyUI's word for how a module is packed, JSON as bytes
MARK = "scaled_fp8"  # ComfyUI's: every weight of the file has a scale
BLOCK = 128  # DeepSeek's


def unpacked(stored: Mapping[str, StoredTensor], folder: Path) -> Split:
    """What is left, and the tensors in fp8 made readable, their scales taken in. Reads headers only.

    `folder` may say the size of blocks. Raises CheckpointError for a scale of the wrong shape, without a weight, or
    missing where others have one.
    """
    marked = any(key.split(".")[-1] == MARK for key in stored)
    if not marked and not any(tensor.dtype in KINDS for tensor in stored.values()):
        return dict(stored), {}
    rest: dict[str, StoredTensor] = {}
    scales: dict[str, StoredTensor] = {}
    for key, tensor in stored.items():
        if (module := _module(key, SCALES)) is not None:
            if module in scales:
                raise CheckpointError(f"{tensor.file}: '{module}' has two scales, '{scales[module].key}' and '{key}'")
            scales[module] = _checked_owner(stored, tensor, module)
        elif key.endswith(NOTE):
            _check_note(tensor)
        elif not key.endswith(OF_INPUTS) and key.split(".")[-1] != MARK:
            rest[key] = tensor
    packed: dict[str, PackedTensor] = {}
    for key, tensor in rest.items():
        if tensor.dtype in KINDS:
            scale = scales.get(key.removesuffix(WEIGHT)) if key.endswith(WEIGHT) else None
            if scale is None and (scales or marked) and len(tensor.shape) > 1:
                raise _without_scale(tensor, scales)
            packed[key] = _packed(tensor, scale, folder)
    return without(rest, packed), packed


def _module(key: str, endings: tuple[str, ...]) -> str | None:
    return next((key.removesuffix(end) for end in endings if key.endswith(end)), None)


def _checked_owner(stored: Mapping[str, StoredTensor], scale: StoredTensor, module: str) -> StoredTensor:
    weight = stored.get(module + WEIGHT)
    if weight is None or weight.dtype not in KINDS:
        seen = "is not there" if weight is None else f"has type {weight.dtype}"
        raise CheckpointError(
            f"{scale.file}: tensor '{scale.key}' scales '{module}{WEIGHT}', which {seen}; an fp8 weight is expected"
        )
    return scale


def _check_note(tensor: StoredTensor) -> None:
    try:
        form = json.loads(tensor.raw().tobytes())["format"]
    except (ValueError, KeyError, TypeError):
        form = None
    if form not in ("float8_e4m3fn", "float8_e5m2"):
        raise CheckpointError(
            f"{tensor.file}: tensor '{tensor.key}' says that the module is packed as {form!r}; allowed: float8_e4m3fn,"
            " float8_e5m2; use the model's bf16 file"
        )


def _without_scale(tensor: StoredTensor, scales: Mapping[str, StoredTensor]) -> CheckpointError:
    known = f"others have one, as '{next(iter(scales.values())).key}'" if scales else f"the file is marked '{MARK}'"
    return CheckpointError(
        f"{tensor.file}: tensor '{tensor.key}' is {KINDS[tensor.dtype]} and has no scale beside it, but {known}:"
        " without its scale it would be read wrong; download or convert the file again"
    )


def _packed(tensor: StoredTensor, scale: StoredTensor | None, folder: Path) -> PackedTensor:
    make = partial(PackedTensor, tensor.file, tensor.key, tensor.shape, KINDS[tensor.dtype])
    if scale is None:
        return make(partial(_plain, tensor), dtype="BF16")  # which holds every number of either kind
    return make(partial(_scaled, tensor, scale, _blocks(tensor, scale, folder)))


def _blocks(tensor: StoredTensor, scale: StoredTensor, folder: Path) -> tuple[int, int]:
    """Rows and columns of the weight that share one scale."""
    high, wide = tensor.shape[0] if tensor.shape else 1, tensor.count // (tensor.shape[0] if tensor.shape else 1)
    if scale.count == 1:
        return high, wide
    counts = scale.shape if len(scale.shape) == 2 else (*scale.shape, 1)
    stated = quantization_config(folder).get("weight_block_size")
    preferred = stated if isinstance(stated, list) and len(stated) == 2 else (BLOCK, BLOCK)
    if len(counts) == 2:
        found = [_block(*sizes) for sizes in zip((high, wide), counts, preferred, strict=True)]
        if found[0] and found[1]:
            return found[0], found[1]
    raise wrong_shape(
        scale, f"for a weight of {list(tensor.shape)} one number, [{high}], [{high}, 1], or a grid of equal blocks is"
    )


def _block(size: int, count: int, preferred: int) -> int:
    """Numbers in each of `count` equal blocks of `size` numbers (the last may be cut), 0 if there are none such."""
    if count > 1 and -(-size // preferred) == count:
        return preferred
    return size // count if count and size % count == 0 else 0


def _plain(tensor: StoredTensor, start: int, stop: int) -> np.ndarray:
    raw = tensor.raw().reshape(tensor.shape[0] if tensor.shape else 1, -1)
    return _values(tensor.dtype)[raw[start:stop].view(np.uint8)]


def _scaled(tensor: StoredTensor, scale: StoredTensor, block: tuple[int, int], start: int, stop: int) -> np.ndarray:
    values, grid = _plain(tensor, start, stop), floats(scale)
    if grid.size == 1:
        return values * grid.reshape(())
    grid = grid.reshape(grid.shape[0], -1)[np.arange(start, stop) // block[0]]
    return values * (grid if grid.shape[1] == 1 else grid.repeat(block[1], axis=1)[:, : values.shape[1]])


@cache
def _values(dtype: str) -> np.ndarray:
    """The 256 numbers of a kind in float32, by their bits."""
    return np.arange(256, dtype=np.uint8).view(PACKED_DTYPES[dtype]).astype(np.float32)

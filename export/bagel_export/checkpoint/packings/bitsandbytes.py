"""Weights in the 4-bit forms of bitsandbytes, NF4 and FP4: pairs of codes in bytes, a table of 16 numbers, one scale
for each block of a tensor read as one long row; the scales may themselves be rounded to 8 bits.

The layout is that of a saved Linear4bit: `X.weight` and, behind its name, `.absmax`, `.quant_map`,
`.quant_state.bitsandbytes__nf4` (JSON as bytes) and for rounded scales `.nested_absmax`, `.nested_quant_map`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from bagel_export.checkpoint.packings.packed import PackedTensor, Split, beside, floats, wrong_shape
from bagel_rt.errors import CheckpointError
from bagel_rt.files.safetensors_file import StoredTensor

STATE = re.compile(r"(?P<weight>.+)\.quant_state\.bitsandbytes__(?P<kind>nf4|fp4)")
ABSMAX, TABLE, NESTED, NESTED_TABLE = ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"
PARTS = (ABSMAX, TABLE, NESTED, NESTED_TABLE)


@dataclass(frozen=True)
class Scales:
    """The scale of each block: a number, or a code of a table times a number of a coarser block, plus an offset."""

    absmax: StoredTensor
    nested: StoredTensor | None = None
    table: StoredTensor | None = None
    block: int = 0
    offset: float = 0.0

    def read(self, start: int, stop: int) -> np.ndarray:
        """The scales of blocks start to stop, float32."""
        if self.nested is None or self.table is None:
            return floats(self.absmax).reshape(-1)[start:stop]
        codes = self.absmax.raw().reshape(-1)[start:stop]
        coarse = floats(self.nested).reshape(-1)[np.arange(start, stop) // self.block]
        return floats(self.table).reshape(-1)[codes] * coarse + np.float32(self.offset)


def unpacked(stored: Mapping[str, StoredTensor]) -> Split:
    """What is left, and the tensors in NF4 and FP4 made readable. Reads headers and the small JSON texts only.

    Raises CheckpointError for a part that is missing, without its weight, or of the wrong size.
    """
    states = {m["weight"]: (key, m["kind"]) for key in stored if (m := STATE.fullmatch(key))}
    rest: dict[str, StoredTensor] = {}
    packed: dict[str, PackedTensor] = {}
    for key, tensor in stored.items():
        if key in states:
            state, kind = states[key]
            packed[key] = _packed(stored, tensor, stored[state], kind)
        elif not STATE.fullmatch(key) and not _is_part(key, stored):
            rest[key] = tensor
    for weight, (state, _) in states.items():
        if weight not in stored:
            raise CheckpointError(
                f"{stored[state].file}: tensor '{state}' has no weight beside it: '{weight}' is missing"
            )
    return rest, packed


def _is_part(key: str, stored: Mapping[str, StoredTensor]) -> bool:
    """Whether a tensor belongs to a packed weight. Raises CheckpointError where the word on how is lost."""
    end = next((end for end in PARTS if key.endswith(end)), None)
    if end is None:
        return False
    weight = key.removesuffix(end)
    if not any(f"{weight}.quant_state.bitsandbytes__{kind}" in stored for kind in ("nf4", "fp4")):
        raise CheckpointError(
            f"{stored[key].file}: tensor '{key}' belongs to a weight packed by bitsandbytes, and"
            f" '{weight}.quant_state.bitsandbytes__nf4', which says how, is missing; download or convert the file again"
        )
    return True


def _packed(stored: Mapping[str, StoredTensor], codes: StoredTensor, state: StoredTensor, kind: str) -> PackedTensor:
    stated = _Stated(state)
    shape, block = stated.shape(), stated.size("blocksize")
    if codes.dtype != "U8" or codes.count != -(-prod(shape) // 2):
        raise wrong_shape(codes, f"{-(-prod(shape) // 2)} bytes for a weight of {list(shape)} are")
    scale, table = (
        beside(stored, codes, codes.key + end, what) for end, what in ((ABSMAX, "scales"), (TABLE, "table"))
    )
    _check_count(scale, -(-prod(shape) // block))
    _check_count(table, 16)
    scales = Scales(scale)
    if scale.dtype == "U8":
        scales = _nested(stored, codes, scale, stated)
    return PackedTensor(codes.file, codes.key, shape, kind.upper(), partial(_rows, codes, table, scales, block, shape))


def _nested(stored: Mapping[str, StoredTensor], codes: StoredTensor, scale: StoredTensor, stated: _Stated) -> Scales:
    block = stated.size("nested_blocksize")
    coarse = beside(stored, codes, codes.key + NESTED, "scales of its scales")
    table = beside(stored, codes, codes.key + NESTED_TABLE, "table of its scales")
    _check_count(coarse, -(-scale.count // block))
    _check_count(table, 256)
    return Scales(scale, coarse, table, block, stated.number("nested_offset"))


def _check_count(tensor: StoredTensor, count: int) -> None:
    if tensor.count != count:
        raise wrong_shape(tensor, f"{count} numbers are")


class _Stated:
    """The JSON text that says how a weight was packed."""

    def __init__(self, tensor: StoredTensor):
        self._tensor = tensor
        try:
            values = json.loads(tensor.raw().tobytes())
        except (ValueError, KeyError):
            values = None
        if not isinstance(values, dict):
            raise CheckpointError(f"{tensor.file}: tensor '{tensor.key}' is not a JSON object as bytes")
        self._values: dict[str, Any] = values

    def shape(self) -> tuple[int, ...]:
        found = self._values.get("shape")
        if not isinstance(found, list) or not all(type(n) is int and n > 0 for n in found):
            raise self._wrong("shape", "a list of positive integers")
        return tuple(found)

    def size(self, name: str) -> int:
        found = self._values.get(name)
        if type(found) is not int or found < 2 or found % 2:
            raise self._wrong(name, "an even number")
        return found

    def number(self, name: str) -> float:
        found = self._values.get(name)
        if not isinstance(found, int | float):
            raise self._wrong(name, "a number")
        return float(found)

    def _wrong(self, name: str, wanted: str) -> CheckpointError:
        tensor = self._tensor
        return CheckpointError(
            f"{tensor.file}: tensor '{tensor.key}' says '{name}' is {self._values.get(name)!r}; {wanted} is expected"
        )


def _rows(
    codes: StoredTensor, table: StoredTensor, scales: Scales, block: int, shape: tuple[int, ...], start: int, stop: int
) -> np.ndarray:
    columns, size = prod(shape[1:]), prod(shape)
    first, last = start * columns // block, -(-stop * columns // block)  # blocks
    begin, end = first * block, min(last * block, size)  # numbers
    packed = codes.raw().reshape(-1)[begin // 2 : -(-end // 2)]
    sixteen = floats(table).reshape(-1)
    pairs = np.stack(np.divmod(np.arange(256), 16), axis=1)  # the first of two numbers is in the upper half
    values = sixteen[pairs][packed].reshape(-1)[: end - begin]
    values *= scales.read(first, last).repeat(block)[: end - begin]
    return values[start * columns - begin : stop * columns - begin]

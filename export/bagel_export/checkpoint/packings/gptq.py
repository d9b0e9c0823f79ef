"""Weights in whole numbers of 2, 4 or 8 bits with a scale and a zero point for each group of inputs, as GPTQ, AutoRound
and GPTQModel pack them.

Of a Linear of `inputs` and `outputs`: `.qweight` int32 (inputs * bits / 32, outputs), the lowest bits the first input;
`.qzeros` int32 (groups, outputs * bits / 32); `.scales` (groups, outputs); `.g_idx` int32 (inputs,), an input's group.
weight = scale * (q - zero). What is stored as a zero point is one less in GPTQ's first form, which AutoRound calls
`auto_gptq`, and the zero point itself in AutoRound's own and in gptq_v2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bagel_export.checkpoint.packings.packed import PackedTensor, Split, beside, wrong_shape
from bagel_export.checkpoint.packings.stated import SECTION, quantization_config
from bagel_rt.errors import CheckpointError
from bagel_rt.files.safetensors_file import StoredTensor

CODES, ZEROS, SCALES, GROUPS = ".qweight", ".qzeros", ".scales", ".g_idx"
BITS = (2, 4, 8)
METHODS = ("gptq", "auto-round", "intel/auto-round")
USE = "use the bf16 weights that it was made from, with --precision int4"


@dataclass(frozen=True)
class Rounding:
    """How one module was rounded."""

    bits: int
    group: int  # inputs with one scale; -1: all
    symmetric: bool
    zero_shift: int  # what is added to a stored zero point


def unpacked(stored: Mapping[str, StoredTensor], folder: Path) -> Split:
    """What is left, and the tensors that GPTQ or AutoRound packed made readable; `folder` has the config that says how.

    Reads headers and zero points. Raises CheckpointError for a part that is missing or of the wrong shape, for a way of
    packing that is not read, and for zero points that are not what a symmetric rounding has.
    """
    modules = {key.removesuffix(CODES) for key in stored if key.endswith(CODES)}
    if not modules:
        return dict(stored), {}
    config = quantization_config(folder)
    first = next(stored[key] for key in stored if key.endswith(CODES))
    _check_method(first, folder, config)
    rest: dict[str, StoredTensor] = {}
    packed: dict[str, PackedTensor] = {}
    for key, tensor in stored.items():
        module, end = next(
            ((key.removesuffix(e), e) for e in (CODES, ZEROS, SCALES, GROUPS) if key.endswith(e)), ("", "")
        )
        if end == CODES:
            packed[f"{module}.weight"] = _packed(stored, tensor, module, _rounding(folder, config, module))
        elif module not in modules:
            if end:
                raise CheckpointError(
                    f"{tensor.file}: tensor '{key}' has no weight beside it: '{module}{CODES}' is missing"
                )
            rest[key] = tensor
    return rest, packed


def _check_method(first: StoredTensor, folder: Path, config: Mapping[str, Any]) -> None:
    if not config:
        raise CheckpointError(
            f"{first.file}: tensor '{first.key}' is packed, and {folder / 'config.json'} has no '{SECTION}' that says"
            " how: copy the config.json that belongs to it"
        )
    method, packing = config.get("quant_method", "gptq"), str(config.get("packing_format", ""))
    if method not in METHODS or "awq" in packing or "llm_compressor" in packing:
        raise CheckpointError(
            f"{folder}: '{SECTION}' says the weights were packed by {method!r} {packing}".rstrip()
            + f"; allowed: {', '.join(METHODS)}, not in AWQ's packing; {USE}"
        )


def _rounding(folder: Path, config: Mapping[str, Any], module: str) -> Rounding:
    """The config's word on a module: `extra_config` names modules that are rounded otherwise."""
    special = config.get("extra_config")
    stated = {**config, **(special.get(module, {}) if isinstance(special, dict) else {})}
    bits, group, symmetric = stated.get("bits"), stated.get("group_size"), stated.get("sym", True)
    if bits not in BITS:
        raise CheckpointError(f"{folder}: '{SECTION}' says bits {bits!r} for '{module}'; allowed: 2, 4, 8; {USE}")
    if type(group) is not int or (group < 1 and group != -1):
        raise CheckpointError(f"{folder}: '{SECTION}' says group_size {group!r}; a positive integer or -1 is expected")
    packing, form = str(config.get("packing_format", "")), str(config.get("checkpoint_format", ""))
    own = config.get("quant_method") != "gptq" and "gptq" not in packing
    return Rounding(bits, group, bool(symmetric), 0 if own or form == "gptq_v2" else 1)


def _packed(stored: Mapping[str, StoredTensor], codes: StoredTensor, module: str, how: Rounding) -> PackedTensor:
    scales = beside(stored, codes, module + SCALES, "scales")
    zeros = beside(stored, codes, module + ZEROS, "zero points")
    each = 32 // how.bits
    if codes.dtype not in ("I32", "U32") or len(codes.shape) != 2:
        raise wrong_shape(codes, "a matrix of int32 is")
    inputs, outputs = codes.shape[0] * each, codes.shape[1]
    group = inputs if how.group == -1 else how.group
    counts = (-(-inputs // group), outputs)
    if scales.shape != counts:
        raise wrong_shape(scales, f"{list(counts)} for groups of {group} inputs is")
    if zeros.shape != (counts[0], -(-outputs // each)) or zeros.dtype not in ("I32", "U32"):
        raise wrong_shape(zeros, f"int32 of {[counts[0], -(-outputs // each)]} is")
    order = stored.get(module + GROUPS)
    if order is not None and order.shape != (inputs,):
        raise wrong_shape(order, f"[{inputs}] is")
    matrix = Matrix(codes, zeros, scales, order, group, how)
    if how.symmetric:
        matrix.check_zeros()
    return PackedTensor(codes.file, codes.key, (outputs, inputs), f"GPTQ {how.bits} bits", partial(Matrix.rows, matrix))


@dataclass(frozen=True)
class Matrix:
    """The parts of one packed Linear."""

    codes: StoredTensor
    zeros: StoredTensor
    scales: StoredTensor
    order: StoredTensor | None
    group: int
    how: Rounding

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Weights of outputs start to stop, float32 (stop - start, inputs)."""
        q = _fields(self.codes.raw()[:, start:stop], self.how.bits, axis=0)  # (inputs, outputs)
        groups = np.arange(len(q)) // self.group if self.order is None else self.order.raw()
        scales = self.scales.mapped()[:, start:stop].astype(np.float32)
        zeros = self._zero_points()[:, start:stop]
        return np.ascontiguousarray((scales[groups] * (q - zeros[groups])).T)

    def check_zeros(self) -> None:
        """A symmetric rounding's zero point is the middle; another one shows that they are stored in another way."""
        found, middle = self._zero_points(), 1 << (self.how.bits - 1)
        if (found != middle).any():
            raise CheckpointError(
                f"{self.zeros.file}: tensor '{self.zeros.key}' holds the zero point {found[found != middle].flat[0]:g};"
                f" {middle} is expected, for '{SECTION}' says sym: its packing_format or checkpoint_format is not that"
                " of these weights"
            )

    def _zero_points(self) -> np.ndarray:
        found = _fields(self.zeros.raw(), self.how.bits, axis=1)[:, : self.scales.shape[1]]
        return (found + self.how.zero_shift) % (1 << self.how.bits) if self.how.zero_shift else found


def _fields(words: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """The numbers in 32-bit words, lowest bits first, side by side along an axis; float32."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    words = np.asarray(words).view(np.uint32)
    parts = np.expand_dims(words, axis + 1) >> shifts.reshape((-1, 1) if axis == 0 else (-1,))
    shape = [n * (len(shifts) if i == axis else 1) for i, n in enumerate(words.shape)]
    return (parts & np.uint32((1 << bits) - 1)).astype(np.float32).reshape(shape)

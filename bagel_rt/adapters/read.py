"""LoRA and DoRA adapters, as peft, diffusers and kohya's scripts write them: read, checked, and turned into changes of
the checkpoint's tensors, by name."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import regex

from bagel_rt.adapters.config import CONFIG
from bagel_rt.adapters.files import find_adapter
from bagel_rt.adapters.keys import (
    ALPHA,
    DOWN,
    MAGNITUDE,
    PEFT_NAMES,
    UP,
    bare,
    candidate,
    kind_of,
    of_flat,
    part_of,
)
from bagel_rt.adapters.products import PIECE, LowRank
from bagel_rt.errors import CheckpointError
from bagel_rt.files.safetensors_file import DTYPES, StoredTensor, read_header

SAVED = re.compile(r"(?P<module>.+)\.modules_to_save\.(?P<adapter>[^.]+)\.(?P<rest>.+)")
PATTERN_SECONDS = 1.0  # for one pattern and one name; a sound one takes microseconds
Places = dict[tuple[str, bool], dict[str, StoredTensor]]  # by module, and whether it is an embedding; then by part


@dataclass(frozen=True)
class Lora:
    """An adapter to merge, a folder or a file of it, and how much of it."""

    folder: Path
    scale: float = 1.0

    @property
    def name(self) -> str:
        path = self.folder.resolve()
        name = path.stem if path.is_file() else path.name
        return name if self.scale == 1 else f"{name}x{self.scale:g}"


Loras = Lora | Sequence[Lora]


def listed(loras: Loras) -> list[Lora]:
    return [loras] if isinstance(loras, Lora) else [*loras]


def names_of(loras: Loras) -> str:
    """For the exported artefact's name."""
    return "+".join(lora.name for lora in listed(loras))


@dataclass(frozen=True)
class Change:
    """What one adapter does to one matrix: a product that is added, with DoRA the lengths that its rows or columns have
    then."""

    product: LowRank
    magnitude: StoredTensor | None = None
    by_columns: bool = False

    @property
    def tensors(self) -> list[StoredTensor]:
        found = (self.product.left, self.product.right, self.magnitude)
        return [tensor for tensor in found if tensor is not None]


@dataclass(frozen=True)
class Adapter:
    """Read adapters: changes by the tensor they are made to, in their order, and whole tensors that replace the
    checkpoint's."""

    file: Path
    updates: Mapping[str, Sequence[Change]] = field(default_factory=dict)
    whole: Mapping[str, StoredTensor] = field(default_factory=dict)

    def left_out(self, tensors: Collection[str]) -> tuple[str, ...]:
        """Keys of the adapter for tensors that are not there (a task without generation leaves some out)."""
        parts = [t.key for n, changes in self.updates.items() if n not in tensors for c in changes for t in c.tensors]
        return tuple(sorted(parts + [t.key for n, t in self.whole.items() if n not in tensors]))


def check_fits(change: Change, name: str, shape: tuple[int, ...]) -> None:
    """Raise CheckpointError where a change is not of a matrix of this shape, (outputs, inputs)."""
    product, magnitude = change.product, change.magnitude
    if product.shape != shape:
        raise CheckpointError(
            f"{product.left.file}: tensor '{product.left.key}' makes an update of {list(product.shape)}; '{name}' is"
            f" {list(shape)}: the adapter is for another model"
        )
    wanted = shape[1 if change.by_columns else 0]
    if magnitude is not None and magnitude.count != wanted:
        raise CheckpointError(
            f"{magnitude.file}: tensor '{magnitude.key}' has shape {list(magnitude.shape)}; {wanted} lengths are"
            f" expected for '{name}'"
        )


def read_adapter(loras: Loras, names: Collection[str]) -> Adapter:
    """Read an adapter, or several that are merged in their order, for a checkpoint whose tensors have these names.

    Raises CheckpointError for a folder that is no adapter, for a kind that cannot be merged, for a key that matches
    nothing, and for two adapters that each replace one tensor.
    """
    found = [_read_one(lora, names) for lora in listed(loras)]
    updates: dict[str, list[Change]] = {}
    whole: dict[str, StoredTensor] = {}
    for adapter in found:
        for name, changes in adapter.updates.items():
            updates.setdefault(name, []).extend(changes)
        for name in adapter.whole.keys() & whole.keys():
            raise CheckpointError(
                f"{adapter.file}: replaces '{name}', and so does {whole[name].file}: keep one of them"
            )
        whole |= adapter.whole
    return Adapter(found[0].file, updates, whole)


def _read_one(lora: Lora, names: Collection[str]) -> Adapter:
    if not math.isfinite(lora.scale):
        raise CheckpointError(f"the adapter's scale is {lora.scale}; a finite number is expected")
    file, config = find_adapter(lora.folder)
    places, whole = _sorted_out(file, names)
    updates: dict[str, list[Change]] = {}
    for (module, embedding), parts in places.items():
        key = next(iter(parts.values())).key
        name = _matrix_name(file, key, module, names)
        if name in updates:
            raise CheckpointError(f"{file}: tensor '{key}' is a second update of '{name}'; keep one")
        updates[name] = [_change(lora, config, file, module, parts, embedding)]
    if not updates and not whole:
        raise CheckpointError(f"{file}: holds no tensors: nothing to merge")
    for tensor in (*whole.values(), *(t for [change] in updates.values() for t in change.tensors)):
        _check_finite(tensor)
    return Adapter(file, updates, whole)


def _sorted_out(file: Path, names: Collection[str]) -> tuple[Places, dict[str, StoredTensor]]:
    """The file's parts of updates, and its other tensors by the checkpoint's names, of one adapter alone."""
    places: Places = {}
    whole: dict[str, StoredTensor] = {}
    adapters: dict[str, str] = {}  # a name, where the file states one, with a tensor of it
    for key, tensor in read_header(file).items():
        if tensor.dtype not in DTYPES:
            raise CheckpointError(f"{file}: tensor '{key}' has type {tensor.dtype}; allowed: {', '.join(DTYPES)}")
        short = bare(key)
        if kind := kind_of(short):
            raise CheckpointError(
                f"{file}: tensor '{key}' is of an adapter of another kind, {kind}; LoRA and DoRA are merged here: merge"
                " it with the tool that made it, and export the result"
            )
        if found := part_of(short):
            part, adapter = found.part, found.adapter
            place = places.setdefault((found.module, found.embedding), {})
        else:
            part, adapter = _whole_name(file, key, short, names)
            place = whole
        if adapter is not None:
            adapters.setdefault(adapter, key)
        if len(adapters) > 1:
            first, other = adapters.values()
            raise CheckpointError(f"{file}: holds two adapters, of '{first}' and of '{other}': save one of them alone")
        if part in place:
            raise CheckpointError(f"{file}: tensor '{key}' is there twice, as '{place[part].key}' too: keep one")
        place[part] = tensor
    return places, whole


def _whole_name(file: Path, key: str, name: str, names: Collection[str]) -> tuple[str, str | None]:
    """The checkpoint's name of a tensor that was trained as it is, and the adapter the key says it is of, if any.

    Such a tensor is a module saved whole, a bias, or the layer below a pair, which peft calls its base layer.
    """
    name = name.replace(".base_layer.", ".")
    if match := SAVED.fullmatch(name):
        named = f"{match['module']}.{match['rest']}"
        if candidate(named, names):
            return _tensor_name(file, key, named, names), match["adapter"]
    return _tensor_name(file, key, name.replace(".modules_to_save.", ".", 1), names), None


def _check_finite(tensor: StoredTensor) -> None:
    values = tensor.mapped().reshape(-1)
    for start in range(0, values.size, PIECE):
        with np.errstate(over="ignore"):  # float64 beyond float32
            piece = values[start : start + PIECE].astype(np.float32)
        if not np.isfinite(piece).all():
            raise CheckpointError(
                f"{tensor.file}: tensor '{tensor.key}' holds numbers that are not finite (NaN or infinity): take the"
                " adapter of an earlier training step"
            )


def _change(
    lora: Lora, config: Mapping[str, Any], file: Path, module: str, parts: dict[str, StoredTensor], embedding: bool
) -> Change:
    """What the parts of one module's update make."""
    some = next(iter(parts.values()))
    for part in (DOWN, UP):
        if part not in parts:
            raise CheckpointError(f"{file}: tensor '{some.key}' has no {PEFT_NAMES[part]} beside it")
    if config.get("use_dora") and MAGNITUDE not in parts:
        raise CheckpointError(
            f"{file}: tensor '{some.key}' has no {PEFT_NAMES[MAGNITUDE]} beside it; {CONFIG} says DoRA"
        )
    down, up, magnitude = parts[DOWN], parts[UP], parts.get(MAGNITUDE)
    if len(down.shape) != 2 or len(up.shape) != 2:
        raise CheckpointError(f"{file}: tensor '{down.key}' has shape {list(down.shape)}; a matrix is expected")
    stated = _pattern(lora.folder / CONFIG, config, "rank_pattern", module, config.get("r"))
    rank = down.shape[0] if stated is None else stated
    if not down.shape[0] == up.shape[1] == rank:
        raise CheckpointError(
            f"{file}: tensors '{down.key}' and '{up.key}' have shapes {list(down.shape)} and {list(up.shape)};"
            + (" their ranks differ" if stated is None else f" {CONFIG} says rank {rank}")
        )
    if embedding and magnitude is not None:
        raise CheckpointError(f"{file}: tensor '{magnitude.key}' is DoRA of an embedding, which is not merged here")
    scale = _scale(lora, config, file, module, rank, parts.get(ALPHA))
    if magnitude is None:  # an embedding's update is (B @ A) transposed: A.T @ B.T
        return Change(LowRank(down, up, scale, transposed=True) if embedding else LowRank(up, down, scale))
    # LyCORIS keeps lengths of rows as (outputs, 1), of columns as (1, inputs); peft's, (outputs,), are of rows
    by_columns = len(magnitude.shape) == 2 and magnitude.shape[0] == 1 != up.shape[0]
    return Change(LowRank(up, down, scale), magnitude, by_columns)


def _scale(
    lora: Lora, config: Mapping[str, Any], file: Path, module: str, rank: int, stored: StoredTensor | None
) -> float:
    """What a product is multiplied by. Where neither file nor config has an alpha it is the rank, as in diffusers."""
    alpha = _pattern(lora.folder / CONFIG, config, "alpha_pattern", module, config.get("lora_alpha", rank))
    if stored is not None:
        if stored.count != 1:
            raise CheckpointError(
                f"{file}: tensor '{stored.key}' has shape {list(stored.shape)}; one number is expected"
            )
        _check_finite(stored)
        alpha = float(np.asarray(stored.mapped()).reshape(-1)[0])
    scale = lora.scale * alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if abs(scale) > float(np.finfo(np.float32).max):
        raise CheckpointError(f"{file}: the update of '{module}' is multiplied by {scale:g}, beyond float32")
    return scale


def _pattern(path: Path, config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """The value of the first pattern that is the module's name or ends it, as peft reads them."""
    patterns = config.get(key) or {}
    try:
        for pattern, value in patterns.items():
            if regex.fullmatch(rf"(.*\.)?({pattern})", module, timeout=PATTERN_SECONDS):
                return value
    except (regex.error, AttributeError, FutureWarning) as error:  # the last: odd patterns under python -W error
        raise CheckpointError(f"{path}: key '{key}' is malformed: {error}") from None
    except TimeoutError:
        raise CheckpointError(
            f"{path}: a pattern of '{key}' was still at '{module}' after {PATTERN_SECONDS:g} s; "
            "write the modules' names out instead"
        ) from None
    return default


def _matrix_name(file: Path, key: str, module: str, names: Collection[str]) -> str:
    """The checkpoint's name of the matrix that a module's parts change."""
    flat = of_flat(module, names)
    if len(flat) > 1:
        raise CheckpointError(
            f"{file}: tensor '{key}' may be for {' or for '.join(flat)}: save it with dots in its names"
        )
    return flat[0] if flat else _tensor_name(file, key, f"{module}.weight", names)


def _tensor_name(file: Path, key: str, name: str, names: Collection[str]) -> str:
    """The checkpoint's name of a tensor the adapter names from the root of whatever was trained."""
    if found := candidate(name, names):
        return found
    raise CheckpointError(f"{file}: tensor '{key}' matches nothing in the checkpoint: the adapter is for another model")

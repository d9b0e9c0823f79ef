"""LoRA adapters in peft's layout: read, checked, and turned into updates of the checkpoint's tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bagel_export.checkpoint.adapter_config import CONFIG, read_adapter_config
from bagel_export.checkpoint.key_roots import WRAPPER
from bagel_export.checkpoint.safetensors_file import DTYPES, StoredTensor, read_header
from bagel_export.checkpoint.tensors import PIECE, LowRank, SourceTensor
from bagel_rt.errors import CheckpointError

WEIGHTS = "adapter_model.safetensors"
PAIR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.(?P<adapter>(?!weight|bias)[^.]+))?(\.weight)?"
)
SAVED = re.compile(r"(?P<module>.+)\.modules_to_save\.(?P<adapter>[^.]+)\.(?P<rest>.+)")
Pairs = dict[tuple[str, bool], dict[str, StoredTensor]]  # by module, and whether it is an embedding; then by A and B


@dataclass(frozen=True)
class Lora:
    """An adapter folder to merge, and how much of it."""

    folder: Path
    scale: float = 1.0

    @property
    def name(self) -> str:
        name = self.folder.resolve().name
        return name if self.scale == 1 else f"{name}x{self.scale:g}"


@dataclass(frozen=True)
class Adapter:
    """A read adapter: updates by the tensor they are added to, and whole tensors that replace the checkpoint's."""

    file: Path
    updates: Mapping[str, LowRank] = field(default_factory=dict)
    whole: Mapping[str, StoredTensor] = field(default_factory=dict)

    def merged(self, tensors: Mapping[str, SourceTensor]) -> dict[str, SourceTensor]:
        """The tensors with their updates. Raises CheckpointError where a shape does not fit."""
        for name in self.updates.keys() & tensors.keys():
            found, wanted = self.updates[name], tensors[name]
            if found.shape != wanted.shape:
                raise CheckpointError(
                    f"{self.file}: tensor '{found.left.key}' makes an update of {list(found.shape)}; '{name}' is"
                    f" {list(wanted.shape)}: the adapter is for another model"
                )
        return {n: replace(t, update=self.updates[n]) if n in self.updates else t for n, t in tensors.items()}

    def left_out(self, tensors: Collection[str]) -> tuple[str, ...]:
        """Keys of the adapter for tensors that are not there (a task without generation leaves some out)."""
        pairs = [t.key for n, u in self.updates.items() if n not in tensors for t in (u.left, u.right)]
        return tuple(sorted(pairs + [t.key for n, t in self.whole.items() if n not in tensors]))


def read_adapter(lora: Lora, names: Collection[str]) -> Adapter:
    """Read an adapter for a checkpoint whose tensors have these names.

    Raises CheckpointError for a folder that is no adapter, for a kind that cannot be merged by adding products, and for
    a key that matches nothing.
    """
    if not lora.folder.is_dir():
        raise CheckpointError(f"{lora.folder}: no such adapter folder")
    if not math.isfinite(lora.scale):
        raise CheckpointError(f"the adapter's scale is {lora.scale}; a finite number is expected")
    config, file = read_adapter_config(lora.folder / CONFIG), lora.folder / WEIGHTS
    if not file.exists() and (lora.folder / "adapter_model.bin").exists():
        raise CheckpointError(f"{file}: file not found; adapter_model.bin is a pickle: save it as safetensors first")
    pairs, whole = _sorted_out(file, names)
    updates: dict[str, LowRank] = {}
    for (module, embedding), sides in pairs.items():
        key = next(iter(sides.values())).key
        name = _tensor_name(file, key, f"{module}.weight", names)
        if name in updates:
            raise CheckpointError(f"{file}: tensor '{key}' is a second update of '{name}'; keep one")
        updates[name] = _update(lora, config, file, module, sides, embedding)
    if not updates and not whole:
        raise CheckpointError(f"{file}: holds no tensors: nothing to merge")
    for tensor in (*whole.values(), *(t for u in updates.values() for t in (u.left, u.right))):
        _check_finite(tensor)
    return Adapter(file, updates, whole)


def _sorted_out(file: Path, names: Collection[str]) -> tuple[Pairs, dict[str, StoredTensor]]:
    """The file's pairs lora_A and lora_B, and its other tensors by the checkpoint's names, of one adapter alone."""
    pairs: Pairs = {}
    whole: dict[str, StoredTensor] = {}
    adapters: dict[str, str] = {}  # a name, where the file states one, with a tensor of it
    for key, tensor in read_header(file).items():
        if tensor.dtype not in DTYPES:
            raise CheckpointError(f"{file}: tensor '{key}' has type {tensor.dtype}; allowed: {', '.join(DTYPES)}")
        short = WRAPPER.sub("", key).removeprefix("module.").removeprefix("base_model.model.")
        if match := PAIR.fullmatch(short):
            module, part, adapter = (match["module"], bool(match["embedding"])), match["side"], match["adapter"] or ""
            place = pairs.setdefault(module, {})
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
    return pairs, whole


def _whole_name(file: Path, key: str, name: str, names: Collection[str]) -> tuple[str, str | None]:
    """The checkpoint's name of a tensor that was trained as it is, and the adapter the key says it is of, if any.

    Such a tensor is a module saved whole, a bias, or the layer below a pair, which peft calls its base layer.
    """
    name = name.replace(".base_layer.", ".")
    if match := SAVED.fullmatch(name):
        named = f"{match['module']}.{match['rest']}"
        if _candidate(named, names):
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


def _update(
    lora: Lora, config: Mapping[str, Any], file: Path, module: str, sides: dict[str, StoredTensor], embedding: bool
) -> LowRank:
    """The update of one module, from its lora_A and lora_B."""
    for side, other in (("A", "B"), ("B", "A")):
        if side not in sides:
            raise CheckpointError(f"{file}: tensor '{sides[other].key}' has no lora_{side} beside it")
    a, b = sides["A"], sides["B"]
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise CheckpointError(f"{file}: tensor '{a.key}' has shape {list(a.shape)}; a matrix is expected")
    rank = _pattern(lora.folder / CONFIG, config, "rank_pattern", module, config["r"])
    if not a.shape[0] == b.shape[1] == rank:
        raise CheckpointError(
            f"{file}: tensors '{a.key}' and '{b.key}' have shapes {list(a.shape)} and {list(b.shape)};"
            f" {CONFIG} says rank {rank}"
        )
    alpha = _pattern(lora.folder / CONFIG, config, "alpha_pattern", module, config["lora_alpha"])
    scale = lora.scale * alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if abs(scale) > float(np.finfo(np.float32).max):
        raise CheckpointError(f"{file}: the update of '{module}' is multiplied by {scale:g}, beyond float32")
    # an embedding's update is (B @ A) transposed: A.T @ B.T
    return LowRank(a, b, scale, transposed=True) if embedding else LowRank(b, a, scale)


def _pattern(path: Path, config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """The value of the first pattern that is the module's name or ends it, as peft reads them."""
    patterns = config.get(key) or {}
    try:
        for pattern, value in patterns.items():
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                return value
    except (re.error, AttributeError) as error:
        raise CheckpointError(f"{path}: key '{key}' is malformed: {error}") from None
    return default


def _tensor_name(file: Path, key: str, name: str, names: Collection[str]) -> str:
    """The checkpoint's name of a tensor the adapter names from the root of whatever was trained."""
    if candidate := _candidate(name, names):
        return candidate
    raise CheckpointError(f"{file}: tensor '{key}' matches nothing in the checkpoint: the adapter is for another model")


def _candidate(name: str, names: Collection[str]) -> str | None:
    roots = (name, name.removeprefix("model."), f"language_model.{name}")
    return next((root for root in roots if root in names), None)

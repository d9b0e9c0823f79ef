"""LoRA adapters in peft's layout: read, checked, and turned into updates of the checkpoint's tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bagel_export.checkpoint.safetensors_file import DTYPES, StoredTensor, read_header
from bagel_export.checkpoint.tensors import LowRank, SourceTensor
from bagel_export.config import read_json
from bagel_rt.errors import CheckpointError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.(?!weight)[^.]+)?(\.weight)?")
# keys of adapter_config.json for methods that are more than `weight + scale * B @ A`, with the value that means "off"
PLAIN = {
    "use_dora": False,
    "fan_in_fan_out": False,
    "lora_bias": False,
    "layer_replication": None,
    "trainable_token_indices": None,
    "target_parameters": None,
}
# initialisations that move a part of the base model's weights into the adapter: added to the weights of a checkpoint,
# which still have that part, it would count twice
REBASED = ("pissa", "olora", "corda", "loftq")


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
    config, file = _read_config(lora.folder / CONFIG), lora.folder / WEIGHTS
    if not file.exists() and (lora.folder / "adapter_model.bin").exists():
        raise CheckpointError(f"{file}: file not found; adapter_model.bin is a pickle: save it as safetensors first")
    pairs: dict[tuple[str, bool], dict[str, StoredTensor]] = {}
    whole = {}
    for key, tensor in read_header(file).items():
        if tensor.dtype not in DTYPES:
            raise CheckpointError(f"{file}: tensor '{key}' has type {tensor.dtype}; allowed: {', '.join(DTYPES)}")
        short = key.removeprefix("base_model.model.")
        if match := PAIR.fullmatch(short):
            pairs.setdefault((match["module"], bool(match["embedding"])), {})[match["side"]] = tensor
        else:
            whole[_tensor_name(file, key, re.sub(r"\.modules_to_save(\.default)?\.", ".", short), names)] = tensor
    updates = {}
    for (module, embedding), sides in pairs.items():
        name = _tensor_name(file, next(iter(sides.values())).key, f"{module}.weight", names)
        updates[name] = _update(lora, config, file, module, sides, embedding)
    if not updates and not whole:
        raise CheckpointError(f"{file}: holds no tensors: nothing to merge")
    return Adapter(file, updates, whole)


def _read_config(path: Path) -> Mapping[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        seen = config.get("peft_type") if isinstance(config, dict) else config
        raise CheckpointError(f"{path}: key 'peft_type' is {seen!r}; allowed: LORA")
    for key, plain in PLAIN.items():
        if config.get(key) not in (plain, None, [], {}):
            raise CheckpointError(
                f"{path}: key '{key}' is {config[key]!r}; such an adapter cannot be merged here: merge it with peft"
                " (merge_and_unload), save the model as safetensors, and export that"
            )
    started = config.get("init_lora_weights")
    if isinstance(started, str) and started.lower().startswith(REBASED):
        raise CheckpointError(
            f"{path}: key 'init_lora_weights' is {started!r}: the adapter belongs to changed base weights; save it"
            " with peft's path_initial_model_for_weight_conversion first"
        )
    for key, kinds in (("r", int), ("lora_alpha", (int, float))):
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
            raise CheckpointError(f"{path}: key '{key}' is {value!r}; a positive number is expected")
    return config


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
    for candidate in (name, name.removeprefix("model."), f"language_model.{name}"):
        if candidate in names:
            return candidate
    raise CheckpointError(f"{file}: tensor '{key}' matches nothing in the checkpoint: the adapter is for another model")

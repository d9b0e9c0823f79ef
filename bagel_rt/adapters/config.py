"""The config of a LoRA adapter (adapter_config.json, diffusers' metadata): what is understood of it. Anything else that
is switched on is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bagel_rt.errors import CheckpointError
from bagel_rt.files.text_files import read_json

CONFIG = "adapter_config.json"
# what the numbers in the file mean is read from these
READ = (
    "peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "bias",
    "init_lora_weights",
)  # fmt: skip
# these chose what was trained and how; which tensors came of it is seen in the file
TRAINING = (
    "task_type", "inference_mode", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "lora_dropout",
    "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "runtime_config",
    "qalora_group_size", "ensure_weight_tying",
)  # fmt: skip
BIASES = ("none", "all", "lora_only")
STARTS = ("gaussian", "eva", "orthogonal")  # initialisations that leave the base model's weights as they are
NUMBERS: dict[str, Any] = {"r": int, "lora_alpha": (int, float)}  # of those that must be there, the types


def read_adapter_config(path: Path) -> Mapping[str, Any]:
    """The config of an adapter that is a sum of products. Raises CheckpointError naming the key."""
    return checked(path, read_json(path, CheckpointError))


def checked(path: Path, config: Any) -> Mapping[str, Any]:
    """A config that stands in the file `path`, checked."""
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        seen = config.get("peft_type") if isinstance(config, dict) else config
        raise CheckpointError(f"{path}: key 'peft_type' is {seen!r}; allowed: LORA")
    for key, value in config.items():
        if key not in READ and key not in TRAINING and not _off(value):
            raise CheckpointError(
                f"{path}: key '{key}' is {value!r}, which is not understood here: merge it with peft"
                " (merge_and_unload), save the model as safetensors, and export that"
            )
    _check_start(path, config.get("init_lora_weights"))
    if config.get("bias", "none") not in BIASES:
        raise CheckpointError(f"{path}: key 'bias' is {config['bias']!r}; allowed: {', '.join(BIASES)}")
    for key in ("use_rslora", "use_dora"):
        if not isinstance(config.get(key, False), bool | None):
            raise CheckpointError(f"{path}: key '{key}' is {config[key]!r}; true or false is expected")
    for key, kinds in NUMBERS.items():
        _check_positive(path, f"key '{key}'", config.get(key), kinds)
    for key, plain in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        patterns = config.get(key)
        for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
            _check_positive(path, f"key '{key}', pattern {pattern!r}", value, NUMBERS[plain])
    return config


def _check_positive(path: Path, what: str, value: Any, kinds: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
        raise CheckpointError(f"{path}: {what} is {value!r}; a positive number is expected")


def _off(value: Any) -> bool:
    """Whether a key states nothing, as a feature does that was not used."""
    return value is None or value is False or value in ("", [], {})


def _check_start(path: Path, value: Any) -> None:
    known = isinstance(value, str) and value.lower() in STARTS
    if not known and not isinstance(value, bool | None):
        raise CheckpointError(
            f"{path}: key 'init_lora_weights' is {value!r}; allowed: true, false, {', '.join(STARTS)}. With others the"
            " adapter may belong to changed base weights: save it with peft's path_initial_model_for_weight_conversion"
        )

"""The single file of the ComfyUI nodes for BAGEL: the model's configs travel in the file's own header, or beside it.

The header's key `comfyui_bagel` is a JSON text with `format`, `format_version` and `model_configs`, which holds
`llm_config.json` and `vit_config.json` as objects. A file that was converted without it may have a text of the same
content beside it, `NAME.safetensors.comfyui-bagel.json`, under `metadata`. The tensors' names are BAGEL's own; there is
no VAE and no tokenizer in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bagel_export.checkpoint.shards import SUFFIX
from bagel_export.config import LLMConfig, ViTConfig, read_json
from bagel_rt.errors import CheckpointError, InputError
from bagel_rt.files.safetensors_file import read_metadata
from bagel_rt.files.text_files import parse_json

FORMAT, VERSION = "comfyui_bagel", 1
BESIDE = ".comfyui-bagel.json"
LLM, VIT = "llm_config.json", "vit_config.json"


def carried_configs(path: Path) -> tuple[LLMConfig, ViTConfig] | None:
    """The configs that a weight file carries; None for a file that is not of this form. Raises CheckpointError."""
    found = _description(path)
    if found is None:
        return None
    described, where = found
    if described.get("format_version") != VERSION:
        raise CheckpointError(
            f"{where}: key 'format_version' is {described.get('format_version')!r}; allowed: {VERSION}; put"
            f" {LLM} and {VIT} of the model beside the file"
        )
    configs = _object(described.get("model_configs"))
    for name in (LLM, VIT):
        if name not in configs:
            raise CheckpointError(f"{where}: key 'model_configs.{name}' is missing; put the model's {name} beside it")
    return (
        LLMConfig.parse(where, configs[LLM], f"model_configs.{LLM}."),
        ViTConfig.parse(where, configs[VIT], f"model_configs.{VIT}."),
    )


def _description(path: Path) -> tuple[dict[str, Any], Path] | None:
    """What is said of a file in its header or beside it, and where."""
    if not path.name.endswith(SUFFIX):
        return None
    header = read_metadata(path)
    if FORMAT in header:
        return _object(header[FORMAT]), path
    if header.get("format") == FORMAT:
        return {key: _parsed(value) for key, value in header.items()}, path
    beside = path.with_name(path.name + BESIDE)
    if beside.is_file():
        return _object(_object(read_json(beside)).get("metadata")), beside
    return None


def _object(value: Any) -> dict[str, Any]:
    found = _parsed(value)
    return found if isinstance(found, dict) else {}


def _parsed(value: Any) -> Any:
    """A header keeps texts alone: a value that is JSON is read, another one stays a text."""
    try:
        return parse_json(value) if isinstance(value, str) else value
    except InputError:
        return value

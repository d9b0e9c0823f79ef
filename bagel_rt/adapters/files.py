"""Where an adapter lies: a folder of peft's or diffusers', or one safetensors file; and its config, if any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bagel_rt.adapters.config import CONFIG, checked, read_adapter_config
from bagel_rt.errors import CheckpointError, InputError
from bagel_rt.files.safetensors_file import read_metadata
from bagel_rt.files.text_files import parse_json

WEIGHTS = "adapter_model.safetensors"  # peft's; it never comes without its config
DIFFUSERS = "pytorch_lora_weights.safetensors"
METADATA_KEY = "lora_adapter_metadata"  # of a diffusers file: peft's config of each of the pipeline's parts


def find_adapter(path: Path) -> tuple[Path, Mapping[str, Any]]:
    """An adapter's weights and config; {} where it has none, so that the file's own alphas say all.

    Raises CheckpointError for what is no adapter, or several.
    """
    if path.is_file():
        return path, _config_of(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such adapter folder or file")
    file = _weights_in(path)
    return file, _config_of(file)


def _weights_in(folder: Path) -> Path:
    named = next((folder / name for name in (WEIGHTS, DIFFUSERS) if (folder / name).exists()), None)
    if named is not None:
        return named
    if (folder / "adapter_model.bin").exists():
        raise CheckpointError(
            f"{folder / WEIGHTS}: file not found; adapter_model.bin is a pickle: save it as safetensors first"
        )
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1 or (folder / CONFIG).exists() or (folder / "llm_config.json").exists():
        seen = f"; {len(found)} other safetensors files are there: name one of them" if found else ""
        raise CheckpointError(f"{folder / WEIGHTS}: file not found{seen}")
    return found[0]


def _config_of(file: Path) -> Mapping[str, Any]:
    if file.name == WEIGHTS or (file.parent / CONFIG).exists():
        return read_adapter_config(file.parent / CONFIG)
    return _config_in(file)


def _config_in(file: Path) -> Mapping[str, Any]:
    """The config in a diffusers file's header, {} where there is none."""
    text = read_metadata(file).get(METADATA_KEY)
    if text is None:
        return {}
    try:
        stated = parse_json(text)
    except InputError as error:
        raise CheckpointError(f"{file}: its '{METADATA_KEY}' is not readable as JSON: {error}") from None
    if not isinstance(stated, dict):
        raise CheckpointError(f"{file}: its '{METADATA_KEY}' is not an object")
    parts = {key.split(".", 1)[0] for key in stated}
    if len(parts) != 1:
        raise CheckpointError(f"{file}: its '{METADATA_KEY}' is of {len(parts)} models; one is expected")
    config = {key.split(".", 1)[-1]: value for key, value in stated.items()}
    return checked(file, {"peft_type": "LORA", **config})

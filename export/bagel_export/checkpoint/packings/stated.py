"""What a folder says of how its weights were rounded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bagel_export.config import read_json

CONFIG_FILES = ("config.json", "quantization_config.json", "quantize_config.json")
SECTION = "quantization_config"


def quantization_config(folder: Path) -> Mapping[str, Any]:
    """config.json's section, or a file of its own; {} where there is none."""
    for path in (folder / name for name in CONFIG_FILES):
        if path.is_file():
            values = read_json(path)
            values = values.get(SECTION) if path.name == "config.json" and isinstance(values, dict) else values
            if isinstance(values, dict):
                return values
    return {}

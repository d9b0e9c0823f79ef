"""An artefact folder of one's own, of the bundled model: nothing is exported, and weights are not copied."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bagel_rt.artefact.folders import BUNDLED
from bagel_rt.artefact.manifest import MANIFEST


def nano_copy(folder: Path) -> Path:
    folder.mkdir()
    for file in BUNDLED.iterdir():
        _placed(file, folder / file.name)
    return folder


def restated(folder: Path, change: Callable[[dict], object]) -> Path:
    """Change what the manifest states."""
    path = folder / MANIFEST
    stated = json.loads(path.read_text(encoding="utf-8"))
    change(stated)
    path.write_text(json.dumps(stated), encoding="utf-8")
    return folder


def _placed(file: Path, target: Path) -> None:
    if file.suffix == ".safetensors":
        try:
            os.link(file, target)
            return
        except OSError:  # another disk
            pass
    shutil.copyfile(file, target)

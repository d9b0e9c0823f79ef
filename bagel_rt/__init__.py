"""bagel-rt: run BAGEL, the unified multimodal model, from an exported artefact, without PyTorch.

import bagel_rt
with bagel_rt.load("bagel-artefact") as bagel:
    bagel.generate("a red cube", seed=1).save("cube.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bagel_rt.errors import (
    ArtefactError,
    BagelError,
    CacheFullError,
    CheckpointError,
    EngineError,
    EngineUnavailableError,
    ExportError,
    InputError,
    OutOfDeviceMemoryError,
)
from bagel_rt.version import __version__

if TYPE_CHECKING:
    from bagel_rt.api import Bagel, Progress, load
    from bagel_rt.results import ImageResult, TextResult

_LAZY = {"load": "api", "Bagel": "api", "Progress": "api", "ImageResult": "results", "TextResult": "results"}

__all__ = [
    "ArtefactError",
    "Bagel",
    "BagelError",
    "CacheFullError",
    "CheckpointError",
    "EngineError",
    "EngineUnavailableError",
    "ExportError",
    "ImageResult",
    "InputError",
    "OutOfDeviceMemoryError",
    "Progress",
    "TextResult",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:  # importing the package stays fast: numpy and the rest come with the first use
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"bagel_rt.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'bagel_rt' has no attribute {name!r}")

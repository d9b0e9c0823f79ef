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
    NotFiniteError,
    OutOfDeviceMemoryError,
    OutputError,
    QueueFull,
    QueueTimeout,
)
from bagel_rt.remarks import BagelWarning
from bagel_rt.version import __version__

if TYPE_CHECKING:
    from bagel_rt.api import Bagel, load
    from bagel_rt.conversation.marks import Mark
    from bagel_rt.conversation.session import Session
    from bagel_rt.events import Done, ImageReady, Progress, Step, TextPiece
    from bagel_rt.inputs.masks import extended
    from bagel_rt.results import ImageResult, ReasonResult, TextResult
    from bagel_rt.styles.style import Style

_MODULES = {
    "api": ("Bagel", "load"),
    "events": ("Done", "ImageReady", "Progress", "Step", "TextPiece"),
    "inputs.masks": ("extended",),
    "results": ("ImageResult", "ReasonResult", "TextResult"),
    "styles.style": ("Style",),
    "conversation.marks": ("Mark",),
    "conversation.session": ("Session",),
}
_LAZY = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ArtefactError",
    "Bagel",
    "BagelError",
    "BagelWarning",
    "CacheFullError",
    "CheckpointError",
    "Done",
    "EngineError",
    "EngineUnavailableError",
    "ExportError",
    "ImageReady",
    "ImageResult",
    "InputError",
    "Mark",
    "NotFiniteError",
    "OutOfDeviceMemoryError",
    "OutputError",
    "Progress",
    "QueueFull",
    "QueueTimeout",
    "ReasonResult",
    "Session",
    "Step",
    "Style",
    "TextPiece",
    "TextResult",
    "__version__",
    "extended",
    "load",
]


def __getattr__(name: str) -> Any:  # importing the package stays fast: numpy and the rest come with the first use
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"bagel_rt.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'bagel_rt' has no attribute {name!r}")

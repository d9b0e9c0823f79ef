"""bagel_export: the PyTorch reference model of BAGEL, its checkpoints, and their export to ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bagel_export.config import BagelConfig
    from bagel_export.reference.bagel import BagelModel
    from bagel_export.training.unified import BagelForUnifiedMultimodal

_LAZY = {
    "BagelConfig": "config",
    "BagelForUnifiedMultimodal": "training.unified",
    "BagelModel": "reference.bagel",
}

__all__ = ["BagelConfig", "BagelForUnifiedMultimodal", "BagelModel"]


def __getattr__(name: str) -> Any:  # reading a config does not import torch
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"bagel_export.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'bagel_export' has no attribute {name!r}")

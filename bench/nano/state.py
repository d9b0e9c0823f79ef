"""A training run's state folder: one checkpoint, replaced whole, and a log of losses."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

SAVE_EVERY = 600  # seconds


class State:
    """`name`.pt with everything needed to go on, and `name`.jsonl with one line per logged step, in `folder`."""

    def __init__(self, folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.log_path = folder / f"{name}.pt", folder / f"{name}.jsonl"
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        return torch.load(self.path, weights_only=False) if self.path.exists() else None

    def save(self, **parts: Any) -> None:
        partial = self.path.with_suffix(".partial")
        torch.save(parts, partial)
        os.replace(partial, self.path)
        self._saved = time.monotonic()

    def keep(self, name: str) -> None:
        """Put a copy of the saved checkpoint aside."""
        shutil.copyfile(self.path, self.path.with_name(f"{self.path.stem}-{name}.pt"))

    def due(self) -> bool:
        return time.monotonic() - self._saved > SAVE_EVERY

    def log(self, **values: Any) -> None:
        with self.log_path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")


class Average:
    """Exponential moving average of a module's parameters; short at first, so that the start is forgotten."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.values = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        values = module.state_dict()
        torch._foreach_lerp_(list(self.values.values()), [values[k] for k in self.values], 1 - decay)

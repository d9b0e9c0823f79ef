"""A training run's state folder: one checkpoint, replaced whole, and a log of losses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

SAVE_EVERY = 600  # seconds
_told_to_stop = threading.Event()


def stop_when_told() -> None:
    """From here on SIGTERM and Ctrl-C end a run at its next step, saved."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _told_to_stop.set())


class State:
    """`name`.pt with everything needed to go on, and `name`.jsonl with one line per logged step, in `folder`."""

    def __init__(self, folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.log_path = folder / f"{name}.pt", folder / f"{name}.jsonl"
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        return torch.load(self.path, weights_only=False) if self.path.exists() else None

    def save(self, **parts: Any) -> None:
        """Replace the checkpoint. Raises SystemExit afterwards where the run was told to stop."""
        partial = self.path.with_suffix(".partial")
        torch.save(parts, partial)
        os.replace(partial, self.path)
        self._saved = time.monotonic()
        if _told_to_stop.is_set():
            raise SystemExit(f"stopped; {self.path} is saved, the same command goes on")

    def keep(self, name: str) -> None:
        """Put a copy of the saved checkpoint aside."""
        shutil.copyfile(self.path, self.path.with_name(f"{self.path.stem}-{name}.pt"))

    def due(self) -> bool:
        return _told_to_stop.is_set() or time.monotonic() - self._saved > SAVE_EVERY

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

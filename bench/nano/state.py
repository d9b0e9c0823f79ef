"""A training run's state folder: one checkpoint, replaced whole, a log of losses, and how long it will take."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

SAVE_EVERY = 600  # seconds
SAY_EVERY = 30
_told_to_stop = threading.Event()
_deadline = float("inf")


class Stopped(Exception):
    """A run ended before its end, saved; the same command goes on."""


def stop_when_told(minutes: float | None = None) -> None:
    """From here on SIGTERM and Ctrl-C end a run at its next step, saved, and so does its time when it is over."""
    global _deadline
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _told_to_stop.set())
    _deadline = time.monotonic() + 60 * minutes if minutes else float("inf")


def must_stop() -> bool:
    return _told_to_stop.is_set() or time.monotonic() > _deadline


class State:
    """`name`.pt with everything needed to go on, and `name`.jsonl with one line per logged step, in `folder`."""

    def __init__(self, folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.log_path = folder / f"{name}.pt", folder / f"{name}.jsonl"
        self._saved = time.monotonic()

    def load(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        return torch.load(self.path, map_location=device, weights_only=False) if self.path.exists() else None

    def put(self, **parts: Any) -> None:
        """Replace the checkpoint."""
        partial = self.path.with_suffix(".partial")
        torch.save(parts, partial)
        os.replace(partial, self.path)
        self._saved = time.monotonic()

    def save(self, **parts: Any) -> None:
        """Replace the checkpoint. Raises Stopped afterwards where the run was told to stop."""
        self.put(**parts)
        if must_stop():
            raise Stopped(f"stopped; {self.path} is saved, the same command goes on")

    def keep(self, name: str) -> None:
        """Put a copy of the saved checkpoint aside."""
        shutil.copyfile(self.path, self.path.with_name(f"{self.path.stem}-{name}.pt"))

    def due(self) -> bool:
        return must_stop() or time.monotonic() - self._saved > SAVE_EVERY

    def log(self, **values: Any) -> None:
        with self.log_path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")


class Progress:
    """Says on stderr, every SAY_EVERY seconds, how far a run is and when it will be done."""

    def __init__(self, what: str, start: int, steps: int):
        self.what, self.start, self.steps = what, start, steps
        self._began = self._said = time.monotonic()

    def say(self, step: int) -> None:
        """step: how many are done."""
        now = time.monotonic()
        if now - self._said < SAY_EVERY and step < self.steps:
            return
        self._said = now
        each = (now - self._began) / max(1, step - self.start)
        left = duration(each * (self.steps - step))
        print(f"{self.what}: {step} of {self.steps} steps, {each:.3g} s each, {left} left", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


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

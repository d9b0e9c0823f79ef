"""Running reference modules whose weights stay in the mapped checkpoint: each layer is loaded, used and dropped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import nn

Rounding = Callable[[torch.Tensor], torch.Tensor]


class Values(Protocol):
    """A tensor that can be read: a checkpoint's own, or as an artefact rounds it."""

    def array(self) -> np.ndarray: ...


class Streamed:
    """Within `with Streamed(module, tensors):` a meta module computes in float32, one leaf module in memory at a time.

    `tensors` are looked up by the module's parameter names. `rounding`, by the name of a Linear's weight, is applied to
    what it multiplies.
    """

    def __init__(
        self, module: nn.Module, tensors: Mapping[str, Values], rounding: Mapping[str, Rounding] | None = None
    ):
        self._module, self._tensors, self._rounding = module, tensors, rounding or {}
        self._handles: list = []

    def __enter__(self) -> nn.Module:
        # tied parameters appear under several names and only the first is in state_dict order: ask every owner
        for prefix, part in self._module.named_modules(remove_duplicate=False):
            if any(True for _ in part.parameters(recurse=False)):
                self._handles.append(part.register_forward_pre_hook(self._load(prefix)))
                self._handles.append(part.register_forward_hook(_drop))
        return self._module

    def __exit__(self, *_) -> None:
        for handle in self._handles:
            handle.remove()

    def _load(self, prefix: str):
        rounded = self._rounding.get(f"{prefix}.weight")

        def hook(part: nn.Module, args: tuple) -> tuple | None:
            for name, meta in part.named_parameters(recurse=False):
                part.__dict__.setdefault("_meta_parameters", {})[name] = meta
                values = torch.from_numpy(self._tensors[f"{prefix}.{name}"].array())
                part._parameters[name] = nn.Parameter(values, requires_grad=False)
            return (rounded(args[0]),) if rounded else None

        return hook


def _drop(part: nn.Module, _args, _output) -> None:
    part._parameters.update(part.__dict__.pop("_meta_parameters", {}))

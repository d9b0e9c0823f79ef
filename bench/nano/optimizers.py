"""Muon for the layers' matrices, all of one shape at once, and AdamW for everything else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bench.nano.arithmetic import type_on

MOMENTUM, STEPS = 0.95, 5
A, B, C = 3.4445, -4.775, 2.0315  # of the odd polynomial that pulls all singular values towards one


class Muon(torch.optim.Optimizer):
    """As torch.optim.Muon with Nesterov momentum and `match_rms_adamw`, but matrices of one shape are orthogonalised
    together: a few large products, where a model of this size would wait for hundreds of small ones."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for params in alike.values():
                self._step(params, group["lr"], group["weight_decay"])

    def _step(self, params: list[Tensor], rate: float, decay: float) -> None:
        gradients = [p.grad for p in params if p.grad is not None]
        momenta = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        updates = orthogonal(torch.stack(torch._foreach_lerp(gradients, momenta, MOMENTUM)))
        torch._foreach_mul_(params, 1 - rate * decay)
        scale = 0.2 * math.sqrt(max(params[0].shape))
        torch._foreach_add_(params, list(updates.to(params[0].dtype).unbind()), alpha=-rate * scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """(n, rows, columns): each with its singular values near one, by Newton and Schulz's iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(type_on(matrices.device))
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.mT if tall else x


def optimizers(model: nn.Module, config: dict[str, Any]) -> list[torch.optim.Optimizer]:
    matrices, rest = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (matrices if p.ndim == 2 and ".layers." in name else rest).append(p)
    fused = rest[0].is_cuda
    return [
        Muon(matrices, config["muon_rate"], config["weight_decay"]),
        torch.optim.AdamW(rest, lr=config["adam_rate"], betas=(0.9, 0.98), weight_decay=0.0, fused=fused or None),
    ]


def factor(step: int, steps: int, warmup: int, decay: int) -> float:
    """Warm-up, a plateau from which training can be lengthened, a linear decay at the end."""
    return min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / decay))

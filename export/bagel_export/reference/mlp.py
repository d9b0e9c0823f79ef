"""The MLPs of the decoder's layers: dense, and in pieces of which a router picks some for each row.

Modules carry the checkpoint's names.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bagel_export.config import SparseExperts


class MLP(nn.Module):
    def __init__(self, hidden: int, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class SparseMLP(nn.Module):
    """Pieces of an MLP; only those that a row's router picks are computed for it (LLM-Drop's sparse BAGEL).

    Of a row x, the k pieces with the largest logits of `gate` add y * (1 + logit) each, the shared piece adds
    s * (1 + gate_shared(x)): the logits are used as they are. (Qwen2MoeSparseMoeBlock in modeling/qwen2 of
    Shwai-He/SparseUnifiedModel, mode "gen".)
    """

    def __init__(self, hidden: int, sizes: SparseExperts):
        super().__init__()
        self.top_k, self.count = sizes.top_k, sizes.count
        self.gate = nn.Linear(hidden, sizes.count, bias=False)
        self.gate_shared = nn.Linear(hidden, 1, bias=False)
        self.experts = nn.ModuleList(MLP(hidden, sizes.piece) for _ in range(sizes.count))
        if sizes.shared:
            self.shared_expert = MLP(hidden, sizes.shared)

    def forward(self, x: Tensor) -> Tensor:
        """x (rows, hidden) -> (rows, hidden)."""
        logits = self.gate(x)  # (rows, pieces)
        weights, chosen = logits.topk(self.top_k, dim=-1)  # (rows, k) each
        ones = torch.ones_like(chosen)
        picks = torch.zeros_like(logits, dtype=torch.int64).scatter(1, chosen, ones).transpose(0, 1)  # (pieces, rows)
        parts = [self._piece(i, x, picks) for i in range(self.count)]
        # where a row's result lies among those of all pieces, one piece's rows behind another's
        places = (picks.flatten().cumsum(0) - 1).reshape(self.count, -1).transpose(0, 1).gather(1, chosen)
        of_row = torch.cat(parts).index_select(0, places.flatten()).unflatten(0, (-1, self.top_k))  # (rows, k, hidden)
        out = torch.matmul((1 + weights)[:, None, :], of_row)[:, 0]
        if not hasattr(self, "shared_expert"):
            return out
        return out + self.shared_expert(x) * (1 + self.gate_shared(x))

    def _piece(self, i: int, x: Tensor, picks: Tensor) -> Tensor:
        """What piece i makes of the rows that picked it, in their order."""
        return self.experts[i](x.index_select(0, picks[i].nonzero()[:, 0]))

"""Attention inside a packed training sequence: dense boolean masks, one per sample (bagel-spec sections 3 and 11)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bagel_export.reference.language import PackedAttention, attend

MODES = ("causal", "full", "noise")


def from_additive(masks: Sequence[Tensor]) -> list[Tensor]:
    """Boolean masks (n, n), True where a query may look, from additive ones: negative numbers hide."""
    return [mask if mask.dtype == torch.bool else mask >= 0 for mask in masks]


def from_splits(sample_lens: Sequence[int], split_lens: Sequence[int], modes: Sequence[str]) -> list[Tensor]:
    """One mask per sample from its splits: causal, full (bidirectional) or noise (so, and invisible to other splits).

    Raises ValueError for an unknown mode, or splits that do not end where their sample ends.
    """
    masks, at = [], 0
    for length in sample_lens:
        inside: list[tuple[int, str]] = []
        while sum(n for n, _ in inside) < length and at < len(split_lens):
            inside.append((int(split_lens[at]), modes[at]))
            at += 1
        if sum(n for n, _ in inside) != length:
            raise ValueError(f"the splits {[n for n, _ in inside]} do not add up to a sample of {length} tokens")
        masks.append(_sample_mask(inside))
    return masks


def _sample_mask(splits: Sequence[tuple[int, str]]) -> Tensor:
    total = sum(n for n, _ in splits)
    mask, start = torch.zeros(total, total, dtype=torch.bool), 0
    for length, mode in splits:
        if mode not in MODES:
            raise ValueError(f"attention mode {mode!r} is unknown; allowed: {', '.join(MODES)}")
        end = start + length
        block = torch.ones(length, length, dtype=torch.bool)
        mask[start:end, start:end] = block.tril() if mode == "causal" else block
        if mode != "noise":
            mask[end:, start:end] = True
        start = end
    return mask


def packed_attention(masks: Sequence[Tensor], length: int) -> PackedAttention:
    """attention(q, k, v) over a packed sequence of `length` rows; what a last, padding sample adds beyond is cut."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts, start = [], 0
        for mask in masks:
            end = min(start + mask.shape[0], length)
            if end > start:
                rows, size = slice(start, end), end - start
                parts.append(attend(q[rows], k[rows], v[rows], mask[:size, :size].to(q.device)))
            start = end
        if start != length:
            raise ValueError(f"the samples cover {start} tokens, the sequence has {length}")
        return torch.cat(parts)

    return attention

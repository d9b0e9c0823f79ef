"""Laid-out samples to one packed sequence: the keyword arguments of BagelForUnifiedMultimodal.forward."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bagel_export.config import BagelConfig
from bagel_rt.inputs.images import position_ids
from bench.nano.facts import COUNT
from bench.nano.layout import LATENT, LOOKED, NO_FACTS, Laid


class Packer:
    """Timesteps and noise are drawn from torch; everything else follows from the samples. Tensors are on `device`."""

    def __init__(self, config: BagelConfig, device: torch.device | str = "cpu"):
        self.config, self.device = config, torch.device(device)
        side = config.vit.image_size // config.vit.patch_size
        self.vit_positions = self._places(side, config.vit_max_num_patch_per_side)
        self.latent_positions = self._places(config.max_latent_size, config.max_latent_size)

    def _places(self, side: int, table_side: int) -> Tensor:
        return torch.from_numpy(position_ids((side, side), table_side)).to(self.device)

    def pack(self, laid: list[Laid], bank: Tensor) -> dict[str, Any]:
        """bank (rows, 2, 16, h, w): means and deviations of latents, see bench.nano.pools."""
        laid = in_order(laid)
        ids = np.concatenate([one.ids for one in laid])
        text, look, latent = (self._sent(np.flatnonzero(m)) for m in (ids >= 0, ids == LOOKED, ids == LATENT))
        batch: dict[str, Any] = {
            "sequence_length": len(ids),
            "packed_text_ids": self._sent(ids[ids >= 0]),
            "packed_text_indexes": text,
            "sample_lens": [len(one.ids) for one in laid],
            "packed_position_ids": self._sent(np.concatenate([one.positions for one in laid])),
            "split_lens": [n for one in laid for n, _ in one.splits],
            "attn_modes": [mode for one in laid for _, mode in one.splits],
        }
        return batch | self._labels(laid) | self._looks(laid, look) | self._latents(laid, latent, bank)

    def _sent(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self.device, non_blocking=True)

    def _labels(self, laid: list[Laid]) -> dict[str, Any]:
        starts = np.cumsum([0, *(len(one.ids) for one in laid)])
        labels = np.concatenate([one.labels + np.array((at, 0)) for at, one in zip(starts, laid, strict=False)])
        if not len(labels):
            return {}
        return {"ce_loss_indexes": self._sent(labels[:, 0]), "packed_label_ids": self._sent(labels[:, 1])}

    def _looks(self, laid: list[Laid], indexes: Tensor) -> dict[str, Any]:
        looked = np.concatenate([one.looked for one in laid])
        if not len(looked):
            return {}
        return {
            "packed_vit_tokens": patches(pixels(looked, self.device), self.config.vit.patch_size),
            "packed_vit_token_indexes": indexes,
            "packed_vit_position_ids": self.vit_positions.repeat(len(looked)),
            "vit_token_seqlens": torch.full((len(looked),), len(self.vit_positions)),
        }

    def _latents(self, laid: list[Laid], indexes: Tensor, bank: Tensor) -> dict[str, Any]:
        pictures = [(one.rows[which], drawn) for one in laid for which, drawn in one.latents]
        if not pictures:
            return {}
        rows, drawn = (np.array(values) for values in zip(*pictures, strict=True))
        moments, noisy = bank[self._sent(rows)].float(), torch.from_numpy(drawn).to(self.device)
        times = torch.where(noisy, torch.randn(len(rows), device=self.device), -torch.inf)
        grid, size = self.config.max_latent_size, self.config.max_latent_size**2
        return {
            "padded_latent": moments[:, 0] + moments[:, 1] * torch.randn_like(moments[:, 1]),
            "patchified_vae_latent_shapes": [(grid, grid)] * len(rows),
            "packed_latent_position_ids": self.latent_positions.repeat(len(rows)),
            "packed_vae_token_indexes": indexes,
            "packed_timesteps": times.repeat_interleave(size),
            "mse_loss_indexes": indexes[noisy.repeat_interleave(size)],
        }


def in_order(laid: list[Laid]) -> list[Laid]:
    """As they stand in a packed sequence: the shortest first."""
    return sorted(laid, key=lambda one: len(one.ids))


def told(laid: list[Laid], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The facts of a packed sequence's cells, (rows, COUNT) bool each: of `looks` and of `latents`."""
    ordered = in_order(laid)
    facts = {
        "looks": [f for one in ordered for f in one.looked_facts],
        "latents": [one.shown_facts[which] for one in ordered for which, _ in one.latents],
    }
    return {
        name: torch.from_numpy(np.concatenate([NO_FACTS.reshape(0, COUNT), *of])).to(device)
        for name, of in facts.items()
    }


def pixels(pictures: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """(n, side, side, 3) uint8 -> (n, 3, side, side) float32 in -1..1."""
    values = torch.from_numpy(pictures).to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    return ((values / 255 - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)


def patches(values: Tensor, patch: int) -> Tensor:
    """(n, 3, side, side) -> (n * patches, patch * patch * 3), as bagel_rt.inputs.images.patchify of each."""
    cells = values.unflatten(2, (-1, patch)).unflatten(4, (-1, patch))  # (n, 3, rows, patch, columns, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(-1, patch * patch * values.shape[1])

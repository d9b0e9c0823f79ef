"""BagelModel: everything of BAGEL but the VAE, its attributes named as the checkpoint's keys."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bagel_export.config import BagelConfig
from bagel_export.reference.language import LanguageModel
from bagel_export.reference.vision import GeluMLP, VisionModel

FREQUENCIES = 256


class PositionEmbedding(nn.Module):
    """A frozen table of grid * grid rows, used as stored (never recomputed); ids are row * grid + column."""

    def __init__(self, grid: int, hidden: int):
        super().__init__()
        self.grid = grid
        self.pos_embed = nn.Parameter(torch.zeros(grid * grid, hidden), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.pos_embed)


def sincos_table(grid: int, hidden: int) -> Tensor:
    """The official 2-D sine-cosine position table (columns in the first half), float64 maths, float32 (grid * grid,
    hidden)."""
    if hidden % 4:
        raise ValueError(f"hidden size {hidden} must be a multiple of 4 for a 2-D sine-cosine table")
    rate = 10000.0 ** (-torch.arange(hidden // 4, dtype=torch.float64) / (hidden // 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * rate[None]
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, hidden / 2)
    columns, rows = axis.repeat(grid, 1), axis.repeat_interleave(grid, dim=0)
    return torch.cat([columns, rows], dim=1).float()


class TimestepEmbedder(nn.Module):
    """t (n,) in 0..1 -> (n, hidden)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, t: Tensor) -> Tensor:
        half = FREQUENCIES // 2
        rates = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angles = t.float()[:, None] * rates[None]
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(waves.to(next(self.mlp.parameters()).dtype))


class BagelModel(nn.Module):
    def __init__(self, config: BagelConfig):
        super().__init__()
        self.config = config
        hidden = config.llm.hidden_size
        self.language_model = LanguageModel(config.llm)
        self.vit_model = VisionModel(config.vit, config.vit_max_num_patch_per_side)
        self.connector = GeluMLP(config.vit.hidden_size, hidden, hidden)
        self.vit_pos_embed = PositionEmbedding(config.vit_max_num_patch_per_side, hidden)
        if config.visual_gen:
            self.time_embedder = TimestepEmbedder(hidden)
            self.vae2llm = nn.Linear(config.latent_width, hidden)
            self.llm2vae = nn.Linear(hidden, config.latent_width)
            self.latent_pos_embed = PositionEmbedding(config.max_latent_size, hidden)

    def embed_patches(self, patches: Tensor, position_ids: Tensor, lengths: list[int] | None = None) -> Tensor:
        """ViT, connector and position: patches (n, 588) -> und rows (n, hidden)."""
        features = self.vit_model(patches, position_ids, lengths)
        return self.connector(features) + self.vit_pos_embed(position_ids)

    def embed_latents(self, latents: Tensor, t: Tensor, position_ids: Tensor) -> Tensor:
        """Noisy latents (n, 64) at time t, (1,) or (n,) -> gen rows (n, hidden)."""
        return self.vae2llm(latents) + self.time_embedder(t) + self.latent_pos_embed(position_ids)

    def velocity(self, rows: Tensor) -> Tensor:
        """gen rows after the last layer (n, hidden) -> velocity (n, 64)."""
        return self.llm2vae(self.language_model.model.final_norm(rows, gen=True))

    def logits(self, rows: Tensor) -> Tensor:
        """und rows after the last layer (n, hidden) -> logits (n, vocab)."""
        return self.language_model.lm_head(self.language_model.model.final_norm(rows, gen=False))

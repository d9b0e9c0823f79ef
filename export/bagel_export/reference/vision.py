"""The SigLIP-NaViT image encoder, and the connector that maps its rows to the decoder's width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bagel_export.config import ViTConfig
from bagel_export.reference.language import attend, attend_batch


class VisionEmbeddings(nn.Module):
    def __init__(self, config: ViTConfig, grid: int):
        super().__init__()
        self.patch_embedding = nn.Linear(config.patch_size**2 * config.num_channels, config.hidden_size)
        self.position_embedding = nn.Embedding(grid * grid, config.hidden_size)

    def forward(self, patches: Tensor, position_ids: Tensor) -> Tensor:
        return self.patch_embedding(patches) + self.position_embedding(position_ids)


class VisionAttention(nn.Module):
    def __init__(self, config: ViTConfig):
        super().__init__()
        size, self.heads = config.hidden_size, config.num_attention_heads
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)

    def forward(self, x: Tensor, lengths: list[int] | None) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if lengths is None:  # one image
            out = attend(q, k, v)
        elif len(set(lengths)) == 1:
            q, k, v = (t.unflatten(0, (-1, lengths[0])) for t in (q, k, v))
            out = attend_batch(q, k, v).flatten(0, 1)
        else:
            images = zip(*(t.split(lengths) for t in (q, k, v)), strict=True)
            out = torch.cat([attend(*image) for image in images])
        return self.out_proj(out)


class GeluMLP(nn.Module):
    """fc2(gelu_tanh(fc1(x))): the ViT's MLP and the connector."""

    def __init__(self, size_in: int, inner: int, size_out: int):
        super().__init__()
        self.fc1 = nn.Linear(size_in, inner)
        self.fc2 = nn.Linear(inner, size_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VisionLayer(nn.Module):
    def __init__(self, config: ViTConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = GeluMLP(config.hidden_size, config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor, lengths: list[int] | None) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), lengths)
        return x + self.mlp(self.layer_norm2(x))


class VisionEncoder(nn.Module):
    def __init__(self, config: ViTConfig):
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.layers_used))


class VisionTransformer(nn.Module):
    def __init__(self, config: ViTConfig, grid: int):
        super().__init__()
        self.embeddings = VisionEmbeddings(config, grid)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class VisionModel(nn.Module):
    """patches (n, patch*patch*3), position ids (n,) -> (n, vit hidden); `lengths` splits n into images."""

    def __init__(self, config: ViTConfig, grid: int):
        super().__init__()
        self.vision_model = VisionTransformer(config, grid)

    def forward(self, patches: Tensor, position_ids: Tensor, lengths: list[int] | None = None) -> Tensor:
        tower = self.vision_model
        x = tower.embeddings(patches, position_ids)
        for layer in tower.encoder.layers:
            x = layer(x, lengths)
        return tower.post_layernorm(x)

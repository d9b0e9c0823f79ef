"""Dimensions of a model that no test computes with."""

from __future__ import annotations

from bagel_rt.artefact.contract import ModelDims


def dims(**values) -> ModelDims:
    base = {
        "hidden_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "vocab_size": 10,
        "max_position_embeddings": 100,
        "rope_theta": 1e4,
        "layer_module": "Qwen2MoTDecoderLayer",
        "vit_patch_size": 14,
        "vit_grid": 4,
        "latent_channels": 16,
        "latent_patch_size": 2,
        "vae_downsample": 8,
        "max_latent_size": 4,
        "vae_scale": 0.3611,
        "vae_shift": 0.1159,
    }
    return ModelDims(**{**base, **values})

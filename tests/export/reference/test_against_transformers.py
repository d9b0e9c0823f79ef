"""An independent check: the same weights in transformers' own SigLIP and Qwen2 modules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2Model, SiglipVisionConfig, SiglipVisionModel

from bagel_export.checkpoint.synthetic import SMALL_LLM, SMALL_VIT
from bagel_export.reference.language import DecoderStack, rope_tables
from bagel_export.reference.vision import VisionModel
from bagel_rt.inputs.images import patchify


def test_the_vit_equals_transformers_siglip_on_the_same_weights():
    torch.manual_seed(0)
    config = replace(SMALL_VIT, image_size=56)
    ours = VisionModel(config, config.grid).eval()
    theirs = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers_used,
            num_attention_heads=config.num_attention_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            vision_use_head=False,
        )
    ).eval()
    weights = dict(ours.state_dict())
    patch = "vision_model.embeddings.patch_embedding.weight"
    p = config.patch_size
    weights[patch] = weights[patch].reshape(-1, p, p, 3).permute(0, 3, 1, 2)
    known = set(theirs.state_dict())
    if not any(k.startswith("vision_model.") for k in known):
        weights = {k.removeprefix("vision_model."): v for k, v in weights.items()}
    theirs.load_state_dict(weights)
    pixels = torch.randn(3, config.image_size, config.image_size)
    patches = torch.from_numpy(patchify(pixels.numpy(), p))
    with torch.no_grad():
        got = ours(patches, torch.arange(config.grid**2))
        wanted = theirs(pixels[None]).last_hidden_state[0]
    assert torch.allclose(got, wanted, atol=2e-6)


def test_the_decoder_without_qk_norm_equals_transformers_qwen2_on_the_same_weights():
    torch.manual_seed(0)
    config = replace(SMALL_LLM, qk_norm=False, layer_module="Qwen2DecoderLayer")
    ours = DecoderStack(config).eval()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    theirs = Qwen2Model(
        Qwen2Config(
            vocab_size=config.vocab_size,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            **{name: getattr(config, name) for name in names},
        )
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    ids = torch.tensor(np.random.default_rng(0).integers(0, 256, 19))
    rows, none = ours.embed_tokens(ids), torch.zeros(config.num_key_value_heads, 0, config.head_dim)
    mask = torch.ones(19, 19, dtype=torch.bool).tril()
    with torch.no_grad():
        for layer in ours.layers:
            rows, _, _ = layer.step_und(rows, rope_tables(torch.arange(19), config.head_dim, 1e6), none, none, mask)
        got = ours.final_norm(rows, gen=False)
        wanted = theirs(ids[None]).last_hidden_state[0]
    assert torch.allclose(got, wanted, atol=2e-6)

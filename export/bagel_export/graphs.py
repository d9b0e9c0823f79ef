"""One small wrapper module per graph: the contract's inputs in, the contract's outputs out.

Wrappers hold the reference model's own modules under the reference model's names, so the parameters of an exported
graph are named as the checkpoint's tensors.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from bagel_export.reference.bagel import BagelModel
from bagel_export.reference.language import DecoderLayer, LanguageModel
from bagel_export.reference.vae import AutoEncoder
from bagel_rt import contract


class Vit(nn.Module):
    def __init__(self, model: BagelModel):
        super().__init__()
        self.vit_model, self.connector, self.vit_pos_embed = model.vit_model, model.connector, model.vit_pos_embed

    def forward(self, patches: Tensor, position_ids: Tensor) -> Tensor:
        return self.connector(self.vit_model(patches, position_ids)) + self.vit_pos_embed(position_ids)


def decoder_layers(language_model: LanguageModel) -> list[DecoderLayer]:
    return cast("list[DecoderLayer]", list(language_model.model.layers))


def gather_past(pool: Tensor, slots: Tensor, layer: int, layers: int) -> tuple[Tensor, Tensor]:
    """A layer's cached K and V (past, kv heads, head dim); the pool's number of slots is taken from its shape."""
    per_half = pool.shape[0] // (2 * layers)
    keys = torch.index_select(pool, 0, slots + 2 * layer * per_half)
    values = torch.index_select(pool, 0, slots + (2 * layer + 1) * per_half)
    return keys, values


class UndStep(nn.Module):
    def __init__(self, model: BagelModel):
        super().__init__()
        self.language_model = model.language_model

    def forward(self, und, und_cos, und_sin, pool, slots, mask):
        layers, new = decoder_layers(self.language_model), []
        for i, layer in enumerate(layers):
            past_k, past_v = gather_past(pool, slots, i, len(layers))
            und, k, v = layer.step_und(und, (und_cos, und_sin), past_k, past_v, mask)
            new += [k, v]
        return und, torch.stack(new)


class GenStep(nn.Module):
    def __init__(self, model: BagelModel):
        super().__init__()
        self.language_model = model.language_model

    def forward(self, und, gen, und_cos, und_sin, gen_cos, gen_sin, pool, slots, mask):
        layers, new = decoder_layers(self.language_model), []
        for i, layer in enumerate(layers):
            past_k, past_v = gather_past(pool, slots, i, len(layers))
            und, gen, k, v = layer.step(und, gen, (und_cos, und_sin), (gen_cos, gen_sin), past_k, past_v, mask)
            new += [k, v]
        return und, gen, torch.stack(new)


class FlowEmbed(nn.Module):
    def __init__(self, model: BagelModel):
        super().__init__()
        self.vae2llm, self.time_embedder = model.vae2llm, model.time_embedder
        self.latent_pos_embed = model.latent_pos_embed

    def forward(self, latents: Tensor, time: Tensor, position_ids: Tensor) -> Tensor:
        return self.vae2llm(latents) + self.time_embedder(time) + self.latent_pos_embed(position_ids)


class FlowHead(nn.Module):
    def __init__(self, model: BagelModel):
        super().__init__()
        self.language_model, self.llm2vae = model.language_model, model.llm2vae

    def forward(self, gen_out: Tensor) -> Tensor:
        return self.llm2vae(self.language_model.model.final_norm(gen_out, gen=True))


class LmHead(nn.Module):
    def __init__(self, model: BagelModel):
        super().__init__()
        self.language_model = model.language_model

    def forward(self, und_out: Tensor) -> Tensor:
        return self.language_model.lm_head(self.language_model.model.final_norm(und_out, gen=False))


class VaeEncoder(nn.Module):
    def __init__(self, vae: AutoEncoder):
        super().__init__()
        self.vae = nn.ModuleDict({"encoder": vae.encoder})

    def forward(self, pixels: Tensor) -> Tensor:
        return self.vae["encoder"](pixels)


class VaeDecoder(nn.Module):
    def __init__(self, vae: AutoEncoder):
        super().__init__()
        self.vae = nn.ModuleDict({"decoder": vae.decoder})

    def forward(self, latent: Tensor) -> Tensor:
        return self.vae["decoder"](latent)


def build(name: str, model: BagelModel | None, vae: AutoEncoder | None) -> nn.Module:
    """The wrapper of a graph by its contract name; the VAE's graphs need `vae`, the others `model`."""
    if name in (contract.VAE_ENCODER, contract.VAE_DECODER):
        assert vae is not None
        return (VaeEncoder if name == contract.VAE_ENCODER else VaeDecoder)(vae).eval()
    assert model is not None
    wrappers = {
        contract.VIT: Vit,
        contract.UND_STEP: UndStep,
        contract.GEN_STEP: GenStep,
        contract.FLOW_EMBED: FlowEmbed,
        contract.FLOW_HEAD: FlowHead,
        contract.LM_HEAD: LmHead,
    }
    return wrappers[name](model).eval()

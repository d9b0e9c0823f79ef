"""One small wrapper module per graph: the contract's inputs in, the contract's outputs out.

Wrappers hold the reference model's own modules under the reference model's names, so the parameters of an exported
graph are named as the checkpoint's tensors.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bagel_export.reference.bagel import BagelModel
from bagel_export.reference.language import DecoderLayer, LanguageModel
from bagel_export.reference.vae import AutoEncoder, Decoder, Level, Norm, ResnetBlock
from bagel_rt.artefact import contract


class Wrapper(nn.Module):
    """Base of the wrappers: inputs and outputs are float32 (see contract.graph_specs), `dtype` is what it computes
    in."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def inside(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(cast_to(t, self.dtype) for t in tensors)


def cast_to(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)


def outside(x: Tensor) -> Tensor:
    return cast_to(x, torch.float32)


class Vit(Wrapper):
    def __init__(self, model: BagelModel, dtype: torch.dtype):
        super().__init__(dtype)
        self.vit_model, self.connector, self.vit_pos_embed = model.vit_model, model.connector, model.vit_pos_embed

    def forward(self, patches: Tensor, position_ids: Tensor) -> Tensor:
        (patches,) = self.inside(patches)
        return outside(self.connector(self.vit_model(patches, position_ids)) + self.vit_pos_embed(position_ids))


def decoder_layers(language_model: LanguageModel) -> list[DecoderLayer]:
    return cast("list[DecoderLayer]", list(language_model.model.layers))


def gather_past(pool: Tensor, slots: Tensor, layer: int, layers: int) -> tuple[Tensor, Tensor]:
    """A layer's cached K and V (kv heads, past, head dim); the pool's number of slots is taken from its shape.

    Gathered with the heads in front, as attention wants them: a transposed copy of the whole past would cost time.
    """
    per_half, heads = pool.shape[0] // (2 * layers), pool.shape[1]
    rows = slots * heads + torch.arange(heads, device=slots.device)[:, None]  # (kv heads, past), of the first half
    flat = pool.flatten(0, 1)
    keys, values = (F.embedding(rows + (2 * layer + i) * per_half * heads, flat) for i in (0, 1))
    return keys, values


class UndStep(Wrapper):
    def __init__(self, model: BagelModel, dtype: torch.dtype):
        super().__init__(dtype)
        self.language_model = model.language_model

    def forward(self, und, und_cos, und_sin, pool, slots, mask):
        und, und_cos, und_sin = self.inside(und, und_cos, und_sin)
        layers, new = decoder_layers(self.language_model), []
        for i, layer in enumerate(layers):
            past_k, past_v = gather_past(pool, slots, i, len(layers))
            und, k, v = layer.step_und(und, (und_cos, und_sin), past_k, past_v, mask)
            new += [k, v]
        return outside(und), torch.stack(new)


class GenStep(Wrapper):
    """Both experts. depth: run only the first so many layers; None runs all of them."""

    def __init__(self, model: BagelModel, dtype: torch.dtype, depth: int | None = None):
        super().__init__(dtype)
        self.language_model, self.depth = model.language_model, depth

    def forward(self, und, gen, und_cos, und_sin, gen_cos, gen_sin, pool, slots, mask):
        und, gen, und_cos, und_sin, gen_cos, gen_sin = self.inside(und, gen, und_cos, und_sin, gen_cos, gen_sin)
        layers, new = decoder_layers(self.language_model)[: self.depth], []
        for i, layer in enumerate(layers):
            past_k, past_v = gather_past(pool, slots, i, len(layers))
            und, gen, k, v = layer.step(und, gen, (und_cos, und_sin), (gen_cos, gen_sin), past_k, past_v, mask)
            new += [k, v]
        return outside(und), outside(gen), torch.stack(new)


class FlowEmbed(Wrapper):
    def __init__(self, model: BagelModel, dtype: torch.dtype):
        super().__init__(dtype)
        self.vae2llm, self.time_embedder = model.vae2llm, model.time_embedder
        self.latent_pos_embed = model.latent_pos_embed

    def forward(self, latents: Tensor, time: Tensor, position_ids: Tensor) -> Tensor:
        (latents,) = self.inside(latents)  # time stays float32: its sines and cosines need it
        return outside(self.vae2llm(latents) + self.time_embedder(time) + self.latent_pos_embed(position_ids))


class FlowHead(Wrapper):
    def __init__(self, model: BagelModel, dtype: torch.dtype):
        super().__init__(dtype)
        self.language_model, self.llm2vae = model.language_model, model.llm2vae

    def forward(self, gen_out: Tensor) -> Tensor:
        (gen_out,) = self.inside(gen_out)
        return outside(self.llm2vae(self.language_model.model.final_norm(gen_out, gen=True)))


class LmHead(Wrapper):
    def __init__(self, model: BagelModel, dtype: torch.dtype):
        super().__init__(dtype)
        self.language_model = model.language_model

    def forward(self, und_out: Tensor) -> Tensor:
        (und_out,) = self.inside(und_out)
        return outside(self.language_model.lm_head(self.language_model.model.final_norm(und_out, gen=False)))


class VaeEncoder(Wrapper):
    def __init__(self, vae: AutoEncoder, dtype: torch.dtype):
        super().__init__(dtype)
        self.vae = nn.ModuleDict({"encoder": vae.encoder})

    def forward(self, pixels: Tensor) -> Tensor:
        (pixels,) = self.inside(pixels)
        return outside(self.vae["encoder"](pixels))


class OfDecoder(Wrapper):
    """Base of the wrappers that hold the VAE's decoder or a part of it."""

    def __init__(self, vae: AutoEncoder, dtype: torch.dtype):
        super().__init__(dtype)
        self.vae = nn.ModuleDict({"decoder": vae.decoder})

    @property
    def decoder(self) -> Decoder:
        return cast("Decoder", self.vae["decoder"])

    def level(self, number: int) -> Level:
        return cast("Level", self.decoder.up[number])


class VaeDecoder(OfDecoder):
    def forward(self, latent: Tensor) -> Tensor:
        (latent,) = self.inside(latent)
        return outside(self.decoder(latent))


class VaeBody(OfDecoder):
    def forward(self, latent: Tensor) -> Tensor:
        (latent,) = self.inside(latent)
        return outside(self.decoder.body(latent))


class VaeStrip(OfDecoder):
    """A part of the decoder's high resolutions, the statistics of its norm given (contract.strip_specs)."""

    def __init__(self, vae: AutoEncoder, dtype: torch.dtype, name: str):
        super().__init__(vae, dtype)
        self.name = name

    def forward(self, x: Tensor, mean: Tensor, rate: Tensor, skip: Tensor | None = None) -> Tensor:
        x, mean, rate = self.inside(x, mean, rate)
        norm, conv, block = self._parts()
        y = conv(F.silu(norm(x, mean, rate)))
        if skip is not None and block is not None:
            (skip,) = self.inside(skip)
            y = y + (block.nin_shortcut(skip) if block.changes_width else skip)
        return outside(y)

    def _parts(self) -> tuple[Norm, nn.Conv2d, ResnetBlock | None]:
        """Norm, convolution, and their block. A method, because as attributes their parameters would have second
        names."""
        for level in contract.VAE_LEVELS:
            blocks = cast("list[ResnetBlock]", list(self.level(level).block))
            for block, (first, second) in zip(blocks, contract.VAE_BLOCKS[level], strict=True):
                if self.name == first:
                    return block.norm1, block.conv1, block
                if self.name == second:
                    return block.norm2, block.conv2, block
        return self.decoder.norm_out, self.decoder.conv_out, None


class VaeRise(OfDecoder):
    """The change of resolution that leads to a level."""

    def __init__(self, vae: AutoEncoder, dtype: torch.dtype, to: int):
        super().__init__(vae, dtype)
        self.to_level = to

    def forward(self, x: Tensor) -> Tensor:
        (x,) = self.inside(x)
        return outside(self.level(self.to_level + 1).get_submodule("upsample")(x))


def build(name: str, model: BagelModel | None, vae: AutoEncoder | None) -> Wrapper:
    """The wrapper of a graph by its contract name; the VAE's graphs need `vae`, the others `model`.

    The graph computes in the dtype of the parameters it is given.
    """
    of_vae = {
        contract.VAE_ENCODER: VaeEncoder,
        contract.VAE_DECODER: VaeDecoder,
        contract.VAE_BODY: VaeBody,
        **{strip: partial(VaeStrip, name=strip) for strip in contract.VAE_STRIPS},
        **{rise: partial(VaeRise, to=level) for level, rise in contract.VAE_RISE.items()},
    }
    if name in of_vae:
        assert vae is not None
        return of_vae[name](vae, dtype_of(vae)).eval()
    assert model is not None
    wrappers = {
        contract.VIT: Vit,
        contract.UND_STEP: UndStep,
        contract.GEN_STEP: GenStep,
        contract.LAYER: partial(GenStep, depth=1),
        contract.FLOW_EMBED: FlowEmbed,
        contract.FLOW_HEAD: FlowHead,
        contract.LM_HEAD: LmHead,
    }
    return wrappers[name](model, dtype_of(model)).eval()


def dtype_of(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype

"""BagelForUnifiedMultimodal: the packed training forward, and loading a checkpoint for training."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bagel_export.checkpoint.open import LM_HEAD, load_for_training
from bagel_export.config import BagelConfig
from bagel_export.reference.bagel import BagelModel, PositionEmbedding, sincos_table
from bagel_export.reference.language import DecoderLayer, RMSNorm, rope_tables
from bagel_export.reference.masks import from_additive, from_splits, packed_attention
from bagel_rt.errors import CheckpointError

log = logging.getLogger(__name__)
STAGES = {1: 1, 2: 2, "stage1": 1, "stage2": 2}
STD = 0.02


class BagelForUnifiedMultimodal(nn.Module):
    """`model` is a BagelModel; the VAE stays outside (its latents come in as `padded_latent`)."""

    def __init__(self, config: BagelConfig):
        super().__init__()
        self.config = config
        self.model = BagelModel(config)
        self.initialize_weights()

    @staticmethod
    def supports_config(config: object) -> bool:
        return isinstance(config, BagelConfig)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, stage: int | str = 2, strict: bool = False, **overrides: Any
    ) -> BagelForUnifiedMultimodal:
        """A float32 model from a checkpoint folder: stage 1 understands, stage 2 also generates.

        Keyword arguments override BagelConfig fields. Tensors the checkpoint lacks keep their initial values, with a
        warning; `strict` raises CheckpointError for keys that match nothing. A wrong shape always raises.
        """
        if stage not in STAGES:
            raise CheckpointError(f"stage {stage!r} is unknown; allowed: {', '.join(map(str, STAGES))}")
        config, tensors, unmatched = load_for_training(path, generation=STAGES[stage] == 2)
        if strict and unmatched:
            raise CheckpointError(f"{path}: tensor '{unmatched[0]}' matches nothing in the model (strict)")
        model = cls(config.override(**overrides))
        wanted = model.model.state_dict()
        for name, source in tensors.items():
            if name in wanted:
                if tuple(wanted[name].shape) != source.shape:
                    shape = list(wanted[name].shape)
                    raise CheckpointError(
                        f"{source.stored.file}: tensor '{source.stored.key}' has shape {list(source.shape)}, {shape} is"
                        " expected"
                    )
                with torch.no_grad():
                    wanted[name].copy_(torch.from_numpy(source.array()))
        tied = {LM_HEAD} if config.llm.tie_word_embeddings else set()
        if missing := sorted(set(wanted) - set(tensors) - tied):
            log.warning("%s: %d tensors are not in the checkpoint, the first is %s", path, len(missing), missing[0])
        return model

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.language_model.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        return self.model.language_model.lm_head

    def initialize_weights(self) -> None:
        """Normal weights of std 0.02, zero biases, unit norms, sine-cosine position tables; llm2vae starts at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=STD)
            if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, RMSNorm | nn.LayerNorm):
                nn.init.ones_(module.weight)
            if isinstance(module, PositionEmbedding):
                rows, hidden = module.pos_embed.shape
                module.pos_embed.data.copy_(sincos_table(math.isqrt(rows), hidden))
        if self.config.visual_gen:
            nn.init.zeros_(self.model.llm2vae.weight)

    def forward(
        self,
        sequence_length: int,
        packed_text_ids: Tensor,
        packed_text_indexes: Tensor,
        sample_lens: list[int],
        packed_position_ids: Tensor,
        nested_attention_masks: list[Tensor] | None = None,
        split_lens: list[int] | None = None,
        attn_modes: list[str] | None = None,
        packed_vit_tokens: Tensor | None = None,
        packed_vit_token_indexes: Tensor | None = None,
        packed_vit_position_ids: Tensor | None = None,
        vit_token_seqlens: Tensor | None = None,
        padded_latent: Tensor | None = None,
        patchified_vae_latent_shapes: list[tuple[int, int]] | None = None,
        packed_latent_position_ids: Tensor | None = None,
        packed_vae_token_indexes: Tensor | None = None,
        packed_timesteps: Tensor | None = None,
        mse_loss_indexes: Tensor | None = None,
        ce_loss_indexes: Tensor | None = None,
        packed_label_ids: Tensor | None = None,
        ce_loss_weights: Tensor | None = None,
    ) -> dict[str, Tensor | None]:
        """Unreduced losses of one packed sequence: ce (tokens,) and mse (latents, 64); either may be None.

        packed_timesteps are logits: t = sigmoid(x), then shifted; -inf marks clean latents. Attention comes from
        nested_attention_masks (additive, one (n, n) per sample) or from split_lens and attn_modes; sample_lens and
        split_lens may end in a padding sample beyond sequence_length. Noise is drawn by torch.randn_like on the packed
        clean latents. ce_loss_weights is accepted and unused.
        """
        if nested_attention_masks is not None:
            masks = from_additive(nested_attention_masks)
        elif split_lens is not None and attn_modes is not None:
            masks = from_splits([int(n) for n in sample_lens], [int(n) for n in split_lens], list(attn_modes))
        else:
            raise ValueError("attention is not defined: give nested_attention_masks, or split_lens with attn_modes")
        embedded = self.get_input_embeddings()(packed_text_ids)
        x = embedded.new_zeros(int(sequence_length), embedded.shape[1]).index_copy(0, packed_text_indexes, embedded)
        und = packed_text_indexes
        if packed_vit_tokens is not None:
            if packed_vit_token_indexes is None or packed_vit_position_ids is None or vit_token_seqlens is None:
                raise ValueError(
                    "packed_vit_tokens need packed_vit_token_indexes, packed_vit_position_ids and vit_token_seqlens"
                )
            lengths = [int(n) for n in vit_token_seqlens]
            rows = self.model.embed_patches(packed_vit_tokens, packed_vit_position_ids, lengths)
            x = x.index_copy(0, packed_vit_token_indexes, rows.to(x.dtype))
            und = torch.cat([und, packed_vit_token_indexes])
        gen, target, noisy = und.new_zeros(0), None, None
        if padded_latent is not None:
            if not self.config.visual_gen:
                raise ValueError("this model understands only (stage 1): it takes no latents")
            if (
                patchified_vae_latent_shapes is None
                or packed_timesteps is None
                or packed_latent_position_ids is None
                or packed_vae_token_indexes is None
            ):
                raise ValueError(
                    "padded_latent needs patchified_vae_latent_shapes, packed_timesteps, packed_latent_position_ids and"
                    " packed_vae_token_indexes"
                )
            clean = self._pack_latents(padded_latent, patchified_vae_latent_shapes)
            t = self._times(packed_timesteps)
            noise = torch.randn_like(clean)
            x_t = ((1 - t[:, None]) * clean + t[:, None] * noise).to(clean.dtype)
            rows = self.model.embed_latents(x_t, t, packed_latent_position_ids)
            gen, target, noisy = packed_vae_token_indexes, noise - clean, t > 0
            x = x.index_copy(0, gen, rows.to(x.dtype))
        hidden = self.last_hidden_state(x, und, gen, packed_position_ids, masks)
        return {
            "ce": self._cross_entropy(hidden, ce_loss_indexes, packed_label_ids),
            "mse": self._squared_error(hidden, mse_loss_indexes, target, noisy),
        }

    def last_hidden_state(self, x: Tensor, und: Tensor, gen: Tensor, positions: Tensor, masks: list[Tensor]) -> Tensor:
        """The decoder on packed rows x (n, hidden), final norms included; und and gen are row indexes.

        cos and sin are rounded to x's dtype, as in the official code; rows in neither und nor gen come back as zeros.
        """
        stack, llm = self.model.language_model.model, self.config.llm
        cos, sin = (t.to(x.dtype) for t in rope_tables(positions[: x.shape[0]], llm.head_dim, llm.rope_theta))
        attention = packed_attention(masks, und, gen, x.shape[0])
        of_und, of_gen, und_rope, gen_rope = x[und], x[gen], (cos[und], sin[und]), (cos[gen], sin[gen])
        for layer in stack.layers:
            assert isinstance(layer, DecoderLayer)
            of_und, of_gen = layer.packed(of_und, of_gen, und_rope, gen_rope, attention)
        rows = torch.cat([stack.final_norm(of_und, gen=False), stack.final_norm(of_gen, gen=True)])
        return torch.zeros_like(x).index_copy(0, torch.cat([und, gen]), rows)

    def _pack_latents(self, padded: Tensor, shapes: Any) -> Tensor:
        """(images, 16, H, W), each cut to its own grid, to token rows (tokens, 64)."""
        p, parts = self.config.latent_patch_size, []
        for latent, (high, wide) in zip(padded, shapes, strict=True):
            cells = (
                latent[:, : int(high) * p, : int(wide) * p].unflatten(1, (int(high), p)).unflatten(3, (int(wide), p))
            )
            parts.append(cells.permute(1, 3, 2, 4, 0).flatten(2).flatten(0, 1))
        return torch.cat(parts)

    def _times(self, logits: Tensor) -> Tensor:
        t, shift = torch.sigmoid(logits), self.config.timestep_shift
        return shift * t / (1 + (shift - 1) * t)

    def _cross_entropy(self, hidden: Tensor, indexes: Tensor | None, labels: Tensor | None) -> Tensor | None:
        if indexes is None or labels is None:
            return None
        return F.cross_entropy(self.get_output_embeddings()(hidden[indexes]), labels, reduction="none")

    def _squared_error(
        self, hidden: Tensor, indexes: Tensor | None, target: Tensor | None, noisy: Tensor | None
    ) -> Tensor | None:
        if indexes is None or target is None or noisy is None:
            return None
        return (self.model.llm2vae(hidden[indexes]) - target[noisy]) ** 2

"""The decoder: Qwen2 layers whose understanding and generation rows take different experts but share attention.

Modules carry the checkpoint's names. `und` rows are text, ViT tokens and vision markers, `gen` rows are latents (as in
modeling/bagel/qwen2_navit.py of the official code).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bagel_export.config import LLMConfig
from bagel_export.reference.mlp import MLP, SparseMLP

GEN = "_moe_gen"
Rope = tuple[Tensor, Tensor]  # cos, sin: (rows, head_dim) each
QKV = tuple[Tensor, Tensor, Tensor]
PackedAttention = Callable[[QKV, QKV], tuple[Tensor, Tensor]]  # q, k, v of und and gen rows -> attended und, gen


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rope_tables(positions: Tensor, head_dim: int, theta: float) -> Rope:
    """cos and sin (rows, head_dim) in float32 for integer positions (rows,); rotate-half layout."""
    inverse = 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim))
    angles = positions.to(torch.float32)[:, None] * inverse[None, :]
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """RoPE on x (rows, heads, head_dim)."""
    cos, sin = rope[0][:, None, :], rope[1][:, None, :]
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]  # chunk() would export as a sequence
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Grouped-query attention of q (rows, heads, dim) over k, v (keys, kv heads, dim) -> (rows, heads * dim).

    mask (rows, keys) is True where a query may look; None lets every query see every key.
    """
    return attend_batch(q[None], k[None], v[None], None if mask is None else mask[None, None])[0]


def attend_batch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`attend` with a batch in front of everything; mask (batch, 1, rows, keys)."""
    grouped = q.shape[2] != k.shape[2]
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, enable_gqa=grouped)
    return out.transpose(1, 2).flatten(2)


def attend_past(
    q: Tensor,
    past: tuple[Tensor, Tensor],
    new: list[tuple[Tensor, Tensor]],
    mask: Tensor | None = None,
    past_last: bool = False,
) -> Tensor:
    """`attend` over keys and values of a past, (kv heads, past, dim) each, and of new rows, (rows, kv heads, dim) each.

    The past has its heads in front so that an exported graph transposes only what is new. mask (rows, past + new rows);
    past_last: the past behind what is new, for attention without a mask.
    """

    def whole(old: Tensor, rows: Iterable[Tensor]) -> Tensor:
        heads_first = [x.transpose(0, 1) for x in rows]
        return torch.cat([*heads_first, old] if past_last else [old, *heads_first], dim=1)

    k, v = (whole(*part) for part in zip(past, zip(*new, strict=True), strict=True))
    grouped = q.shape[1] != k.shape[0]
    mask = None if mask is None else mask[None, None]
    out = F.scaled_dot_product_attention(q.transpose(0, 1)[None], k[None], v[None], attn_mask=mask, enable_gqa=grouped)
    return out[0].transpose(0, 1).flatten(1)


class Attention(nn.Module):
    def __init__(self, config: LLMConfig, suffixes: tuple[str, ...]):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        hidden, q_size, kv_size = config.hidden_size, self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.qk_norm = config.qk_norm
        for s in suffixes:
            self.add_module("q_proj" + s, nn.Linear(hidden, q_size))
            self.add_module("k_proj" + s, nn.Linear(hidden, kv_size))
            self.add_module("v_proj" + s, nn.Linear(hidden, kv_size))
            self.add_module("o_proj" + s, nn.Linear(q_size, hidden, bias=False))
            if self.qk_norm:
                self.add_module("q_norm" + s, RMSNorm(self.head_dim, config.rms_norm_eps))
                self.add_module("k_norm" + s, RMSNorm(self.head_dim, config.rms_norm_eps))

    def qkv(self, x: Tensor, rope: Rope, suffix: str) -> QKV:
        """q (rows, heads, dim), k and v (rows, kv heads, dim); q and k normed and rotated, as they are cached."""
        part = lambda name: self.get_submodule(name + suffix)  # noqa: E731
        q = part("q_proj")(x).unflatten(-1, (self.heads, self.head_dim))
        k = part("k_proj")(x).unflatten(-1, (self.kv_heads, self.head_dim))
        v = part("v_proj")(x).unflatten(-1, (self.kv_heads, self.head_dim))
        if self.qk_norm:
            q, k = part("q_norm")(q), part("k_norm")(k)
        return rotate(q, rope), rotate(k, rope), v

    def project(self, x: Tensor, suffix: str) -> Tensor:
        return self.get_submodule("o_proj" + suffix)(x)


class DecoderLayer(nn.Module):
    """One layer in any of the three forms (config.layer_module). A form without generation tensors of its own uses the
    shared ones for latents, too."""

    def __init__(self, config: LLMConfig, number: int = 0):
        super().__init__()
        mot = config.layer_module == "Qwen2MoTDecoderLayer"
        dense = config.layer_module == "Qwen2DecoderLayer"
        both, alone = ("", GEN), ("",)
        self.gen_attention = GEN if mot else ""
        self.gen_mlp = "" if dense else GEN
        self.self_attn = Attention(config, both if mot else alone)
        for s in both if mot else alone:
            self.add_module("input_layernorm" + s, RMSNorm(config.hidden_size, config.rms_norm_eps))
            self.add_module("post_attention_layernorm" + s, RMSNorm(config.hidden_size, config.rms_norm_eps))
        for s in alone if dense else both:
            sparse = config.sparse if s == GEN and config.sparse and number in config.sparse.layers else None
            inner, hidden = config.intermediate_size, config.hidden_size
            self.add_module("mlp" + s, SparseMLP(hidden, sparse) if sparse else MLP(hidden, inner))

    def _qkv(self, x: Tensor, rope: Rope, gen: bool) -> QKV:
        s = self.gen_attention if gen else ""
        return self.self_attn.qkv(self.get_submodule("input_layernorm" + s)(x), rope, s)

    def _finish(self, x: Tensor, attended: Tensor, gen: bool) -> Tensor:
        """Residual, norm and MLP of one expert."""
        s = self.gen_attention if gen else ""
        x = x + self.self_attn.project(attended, s)
        mlp = self.get_submodule("mlp" + (self.gen_mlp if gen else ""))
        return x + mlp(self.get_submodule("post_attention_layernorm" + s)(x))

    def step_und(self, und: Tensor, rope: Rope, past_k: Tensor, past_v: Tensor, mask: Tensor):
        """und rows over a cache -> (und, new k, new v); past_k and past_v (kv heads, past, dim), new k and v (rows, kv
        heads, dim), mask (rows, past + rows)."""
        q, k, v = self._qkv(und, rope, gen=False)
        attended = attend_past(q, (past_k, past_v), [(k, v)], mask)
        return self._finish(und, attended, gen=False), k, v

    def step(
        self, und: Tensor, gen: Tensor, und_rope: Rope, gen_rope: Rope, past_k: Tensor, past_v: Tensor, mask: Tensor
    ):
        """und and gen rows over a cache -> (und, gen, new k, new v), new rows in that order; past as in step_und.

        mask (und rows, past + und rows + gen rows) is for the und queries; latents see everything. The two calls read
        their own concatenations because TensorRT-RTX 1.7.1 crashes when two Attention nodes share K and V tensors.
        """
        qu, ku, vu = self._qkv(und, und_rope, gen=False)
        qg, kg, vg = self._qkv(gen, gen_rope, gen=True)
        past = (past_k, past_v)
        to_und = attend_past(qu, past, [(ku, vu), (kg, vg)], mask)
        to_gen = attend_past(qg, past, [(kg, vg), (ku, vu)], past_last=True)
        und = self._finish(und, to_und, gen=False)
        gen = self._finish(gen, to_gen, gen=True)
        return und, gen, torch.cat([ku, kg]), torch.cat([vu, vg])

    def packed(
        self, und: Tensor, gen: Tensor, und_rope: Rope, gen_rope: Rope, attention: PackedAttention
    ) -> tuple[Tensor, Tensor]:
        """Rows of packed sequences, (und rows, hidden) and (gen rows, hidden); attention knows where they stand."""
        of_und = self._qkv(und, und_rope, gen=False)
        of_gen = self._qkv(gen, gen_rope, gen=True)
        to_und, to_gen = attention(of_und, of_gen)
        return self._finish(und, to_und, gen=False), self._finish(gen, to_gen, gen=True)


class DecoderStack(nn.Module):
    def __init__(self, config: LLMConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gen_norm = "norm" if config.layer_module == "Qwen2DecoderLayer" else "norm" + GEN
        if self.gen_norm != "norm":
            self.norm_moe_gen = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def final_norm(self, x: Tensor, gen: bool) -> Tensor:
        return self.get_submodule(self.gen_norm if gen else "norm")(x)


class LanguageModel(nn.Module):
    def __init__(self, config: LLMConfig):
        super().__init__()
        self.model = DecoderStack(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

"""Incremental inference in plain PyTorch, independent of the runtime: what the exported path is checked against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bagel_export.reference.bagel import BagelModel
from bagel_export.reference.language import DecoderLayer, Rope, rope_tables


@dataclass(frozen=True)
class TorchContext:
    """Keys and values per layer (tokens, kv heads, head dim), and the next position id. Never changed in place."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    position: int = 0

    @property
    def length(self) -> int:
        return self.keys[0].shape[0]


class TorchInference:
    """The five incremental passes of BAGEL: context text, ViT image, VAE image, denoising, text decoding."""

    def __init__(self, model: BagelModel, im_start: int, im_end: int, vision_start: int, vision_end: int):
        self.model = model.eval()
        self._im_start, self._im_end, self._vision = im_start, im_end, (vision_start, vision_end)
        self._layers = [layer for layer in model.language_model.model.layers if isinstance(layer, DecoderLayer)]

    def empty(self) -> TorchContext:
        llm = self.model.config.llm
        none = torch.zeros(0, llm.num_key_value_heads, llm.head_dim)
        return TorchContext((none,) * len(self._layers), (none,) * len(self._layers))

    def text(self, context: TorchContext, ids: list[int]) -> tuple[TorchContext, Tensor]:
        """Prefill a text segment (im_start and im_end included in ids); also the rows after the last layer."""
        return self._und(context, self._embed(ids), torch.arange(len(ids)) + context.position, causal=True)

    def patches(self, context: TorchContext, patches: Tensor, position_ids: Tensor) -> tuple[TorchContext, Tensor]:
        """Prefill an image as the ViT sees it: patches (n, 588) between two vision markers, at one position."""
        start, end = self._embed(list(self._vision)).split(1)
        rows = torch.cat([start, self.model.embed_patches(patches, position_ids), end])
        out, hidden = self._und(context, rows, torch.full((len(rows),), context.position), causal=False)
        return TorchContext(out.keys, out.values, context.position + 1), hidden

    def latents(self, context: TorchContext, latents: Tensor, position_ids: Tensor) -> tuple[TorchContext, Tensor]:
        """Prefill an image as the VAE sees it: clean latents (n, 64), time 0. Rows: start, latents, end."""
        und, gen, new = self._image(context, latents, torch.zeros(1), position_ids)
        order = lambda x: torch.cat([x[:1], x[2:], x[1:2]])  # noqa: E731  new rows are both markers, then latents
        keys = tuple(torch.cat([old, order(k)]) for old, (k, _) in zip(context.keys, new, strict=True))
        values = tuple(torch.cat([old, order(v)]) for old, (_, v) in zip(context.values, new, strict=True))
        return TorchContext(keys, values, context.position + 1), torch.cat([und[:1], gen, und[1:]])

    def velocity(self, context: TorchContext, x_t: Tensor, t: float, position_ids: Tensor) -> Tensor:
        """Velocity (n, 64) of noisy latents x_t at time t over a context, which stays as it is."""
        _, gen, _ = self._image(context, x_t, torch.tensor([t]), position_ids)
        return self.model.velocity(gen)

    def write(self, context: TorchContext, max_tokens: int) -> tuple[list[int], list[Tensor]]:
        """Greedy decoding: the official returned ids, and the logits after each of them."""
        token, ids, logits = self._im_start, [], []
        while len(ids) < max_tokens:
            ids.append(token)
            position = torch.tensor([context.position])
            context, rows = self._und(context, self._embed([token]), position, causal=True)
            logits.append(self.model.logits(rows)[0])
            token = int(logits[-1].argmax())
            if token == self._im_end:
                break
        return ids, logits

    def _embed(self, ids: list[int]) -> Tensor:
        return self.model.language_model.model.embed_tokens(torch.tensor(ids))

    def _rope(self, positions: Tensor) -> Rope:
        llm = self.model.config.llm
        return rope_tables(positions, llm.head_dim, llm.rope_theta)

    def _und(self, context: TorchContext, rows: Tensor, positions: Tensor, causal: bool) -> tuple[TorchContext, Tensor]:
        count = len(rows)
        mask = torch.ones(count, context.length + count, dtype=torch.bool)
        rope, keys, values = self._rope(positions), [], []
        for layer, k, v in zip(self._layers, context.keys, context.values, strict=True):
            rows, new_k, new_v = layer.step_und(rows, rope, *_past(k, v), mask.tril(context.length) if causal else mask)
            keys.append(torch.cat([k, new_k]))
            values.append(torch.cat([v, new_v]))
        return TorchContext(tuple(keys), tuple(values), context.position + count), rows

    def _image(
        self, context: TorchContext, latents: Tensor, t: Tensor, position_ids: Tensor
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        und, gen = self._embed(list(self._vision)), self.model.embed_latents(latents, t, position_ids)
        und_rope = self._rope(torch.full((2,), context.position))
        gen_rope = self._rope(torch.full((len(gen),), context.position))
        mask, new = torch.ones(2, context.length + 2 + len(gen), dtype=torch.bool), []
        for layer, k, v in zip(self._layers, context.keys, context.values, strict=True):
            und, gen, new_k, new_v = layer.step(und, gen, und_rope, gen_rope, *_past(k, v), mask)
            new.append((new_k, new_v))
        return und, gen, new


def _past(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Cached keys and values with the heads in front, as the layers take them."""
    return k.transpose(0, 1), v.transpose(0, 1)

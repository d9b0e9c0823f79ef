"""Samples to one packed sequence: the keyword arguments of BagelForUnifiedMultimodal.forward."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from bagel_export.config import BagelConfig
from bagel_rt.artefact.manifest import SPECIAL_TOKENS, ResizeRule
from bagel_rt.inputs.images import patchify, position_ids, resize, to_pixels
from bench.nano.render import render
from bench.nano.tasks import Part, Sample
from bench.nano.world import Scene

ROUND = 8  # samples are padded to a multiple of it, so that attention runs on batches of equal length
DROP = {"read": 0.1, "look": 0.5, "keep": 0.1}  # as the paper drops text, ViT and clean VAE tokens


@dataclass
class Stored:
    """A sample and its scenes' latents, mean and deviation (2, 16, h, w) each, in the order of its parts."""

    sample: Sample
    latents: tuple[Tensor, ...] = ()


@dataclass
class _Sequence:
    """One sample's tokens while it is laid out."""

    ids: list[int] = field(default_factory=list)  # -1 looks, -2 latents
    positions: list[int] = field(default_factory=list)
    splits: list[tuple[int, str]] = field(default_factory=list)
    labels: list[tuple[int, int]] = field(default_factory=list)  # place, token
    images: list[tuple[int, Part]] = field(default_factory=list)
    position: int = 0

    def extend(self, ids: list[int], positions: list[int], mode: str) -> None:
        self.ids += ids
        self.positions += positions
        self.splits.append((len(ids), mode))
        self.position = positions[-1] + 1


class Packer:
    """Draws dropout, timesteps and latent noise from `rng` and torch; everything else follows from the samples.

    draws: how often a drawn picture stands in its sample, each time with its own noise and time. Noisy pictures do not
    see each other, so each is what it would be alone, and what comes before them is computed once.
    """

    def __init__(self, tokenizer: Tokenizer, config: BagelConfig, vit_rule: ResizeRule, draws: int = 1):
        self.tokenizer, self.draws = tokenizer, draws
        self.encode = functools.lru_cache(20_000)(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
        self.special = {name: tokenizer.token_to_id(token) for name, token in SPECIAL_TOKENS.items()}
        self.config, self.vit_rule = config, vit_rule
        side = vit_rule.max_size // config.vit.patch_size
        self.vit_positions = torch.from_numpy(position_ids((side, side), config.vit_max_num_patch_per_side))

    def pack(self, stored: list[Stored], rng: random.Random) -> dict:
        laid = sorted((self._lay(s, rng) for s in stored), key=lambda pair: len(pair[0].ids))
        ids = torch.tensor([i for s, _ in laid for i in s.ids])
        text, look, latent = (torch.nonzero(m).flatten() for m in (ids >= 0, ids == -1, ids == -2))
        starts = np.cumsum([0, *(len(s.ids) for s, _ in laid)])
        labels = [
            (int(at) + place, token) for at, (s, _) in zip(starts, laid, strict=False) for place, token in s.labels
        ]
        batch = {
            "sequence_length": len(ids),
            "packed_text_ids": ids[text],
            "packed_text_indexes": text,
            "sample_lens": [len(s.ids) for s, _ in laid],
            "packed_position_ids": torch.tensor([p for s, _ in laid for p in s.positions]),
            "split_lens": [n for s, _ in laid for n, _ in s.splits],
            "attn_modes": [mode for s, _ in laid for _, mode in s.splits],
        }
        if labels:
            batch["ce_loss_indexes"], batch["packed_label_ids"] = torch.tensor(labels).T.contiguous()
        looks = [p.scene for s, _ in laid for _, p in s.images if p.kind == "look"]
        if looks:
            batch |= self._looks(looks, look)  # type: ignore[arg-type]
        pictures = [(p, z) for s, zs in laid for (_, p), z in zip(_latent_parts(s), zs, strict=True)]
        if pictures:
            batch |= self._latents(pictures, latent)
        return batch

    def _lay(self, stored: Stored, rng: random.Random) -> tuple[_Sequence, list[Tensor]]:
        kept = dropped(stored.sample, rng)
        out, latents, waiting = _Sequence(), [], iter(stored.latents)
        for part, keep in zip(stored.sample, kept, strict=True):
            z = next(waiting) if part.kind in ("keep", "draw") else None
            if not keep:
                continue
            if part.kind in ("read", "write"):
                self._text(out, part)
                continue
            here = out.position
            for _ in range(self.draws if part.kind == "draw" else 1):
                out.position = here
                self._image(out, part)
                latents += [] if z is None else [z]
            if part.kind == "draw":
                out.position = here  # what is drawn is read only once it is kept or looked at, from the same position
        if spare := -len(out.ids) % ROUND:
            out.extend([0] * spare, [out.position] * spare, "causal")
        return out, latents

    def _text(self, out: _Sequence, part: Part) -> None:
        ids = [self.special["im_start"], *self.encode(part.text), self.special["im_end"]]
        if part.kind == "write":
            out.labels += [(len(out.ids) + i, token) for i, token in enumerate(ids[1:])]
        out.extend(ids, list(range(out.position, out.position + len(ids))), "causal")

    def _image(self, out: _Sequence, part: Part) -> None:
        assert part.scene is not None
        tokens = [-1] * len(self.vit_positions) if part.kind == "look" else [-2] * self.config.max_latent_size**2
        out.images.append((len(out.ids), part))
        ids = [self.special["vision_start"], *tokens, self.special["vision_end"]]
        out.extend(ids, [out.position] * len(ids), "noise" if part.kind == "draw" else "full")

    def _looks(self, scenes: list[Scene], indexes: Tensor) -> dict:
        rows = np.concatenate([self._patches(s) for s in scenes])
        return {
            "packed_vit_tokens": torch.from_numpy(rows),
            "packed_vit_token_indexes": indexes,
            "packed_vit_position_ids": self.vit_positions.repeat(len(scenes)),
            "vit_token_seqlens": torch.full((len(scenes),), len(self.vit_positions)),
        }

    def _patches(self, scene: Scene) -> np.ndarray:
        return patchify(to_pixels(resize(self.vit_rule, Image.fromarray(render(scene)))), self.config.vit.patch_size)

    def _latents(self, pictures: list[tuple[Part, Tensor]], indexes: Tensor) -> dict:
        grid, size = self.config.max_latent_size, self.config.max_latent_size**2
        moments = torch.stack([z for _, z in pictures]).float()
        noisy = torch.tensor([p.kind == "draw" for p, _ in pictures])
        logits = torch.where(noisy, torch.randn(len(pictures)), -torch.inf).repeat_interleave(size)
        places = torch.from_numpy(position_ids((grid, grid), grid))
        return {
            "padded_latent": moments[:, 0] + moments[:, 1] * torch.randn_like(moments[:, 1]),
            "patchified_vae_latent_shapes": [(grid, grid)] * len(pictures),
            "packed_latent_position_ids": places.repeat(len(pictures)),
            "packed_vae_token_indexes": indexes,
            "packed_timesteps": logits,
            "mse_loss_indexes": indexes[logits > -torch.inf],
        }


def _latent_parts(sequence: _Sequence) -> list[tuple[int, Part]]:
    return [(at, p) for at, p in sequence.images if p.kind != "look"]


def dropped(sample: Sample, rng: random.Random) -> list[bool]:
    """Which parts stay: each kind of droppable part goes together, as guidance leaves them out."""
    text, look, keep = (rng.random() >= DROP[kind] for kind in ("read", "look", "keep"))
    stays = {"read": text, "write": text, "look": look, "keep": keep, "draw": True}
    return [stays[part.kind] or not part.droppable for part in sample]

"""Samples laid out as sequences of tokens and the pictures they need, without PyTorch: what worker processes do."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from bagel_rt.artefact.manifest import SPECIAL_TOKENS, ResizeRule
from bagel_rt.inputs.images import resize
from bench.nano.facts import COUNT, facts
from bench.nano.pictures import received
from bench.nano.tasks import Part, Sample
from bench.nano.world import SIDE, Scene

ROUND = 8  # samples are padded to a multiple of it, so that attention runs on batches of equal length
DROP = {"read": 0.1, "look": 0.5, "keep": 0.1}  # as the paper drops text, ViT and clean VAE tokens
NO_FACTS = np.zeros((0, 0, COUNT), bool)
LOOKED, LATENT = -1, -2  # among token ids: a place for a row of the ViT, of a latent


@dataclass(eq=False)
class Laid:
    """One sample's tokens (n of them, padding included) and pictures.

    latents says of every run of latents which of `shown` it is, and whether it is noisy. `rows` is where a bank
    (bench.nano.pools) keeps the latents of `shown`, which is then given up. The facts of both kinds of pictures are
    what bench.nano.hints tells of them, cell by cell.
    """

    ids: np.ndarray  # (n,) int32
    positions: np.ndarray  # (n,) int32
    splits: tuple[tuple[int, str], ...]  # length and attention of each
    labels: np.ndarray  # (k, 2) int32: place, the token to be said after it
    looked: np.ndarray  # (pictures, side, side, 3) uint8, as the ViT sees them
    shown: np.ndarray  # (pictures, SIDE, SIDE, 3) uint8, as the VAE encodes them
    latents: tuple[tuple[int, bool], ...]
    rows: tuple[int, ...] = ()
    looked_facts: np.ndarray = field(default_factory=lambda: NO_FACTS)  # (pictures, cells, COUNT) bool
    shown_facts: np.ndarray = field(default_factory=lambda: NO_FACTS)


@dataclass
class _Sequence:
    """One sample while it is laid out."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    splits: list[tuple[int, str]] = field(default_factory=list)
    labels: list[tuple[int, int]] = field(default_factory=list)
    looked: list[Scene] = field(default_factory=list)
    shown: dict[Scene, int] = field(default_factory=dict)
    latents: list[tuple[int, bool]] = field(default_factory=list)
    position: int = 0

    def extend(self, ids: list[int], positions: list[int], mode: str) -> None:
        self.ids += ids
        self.positions += positions
        self.splits.append((len(ids), mode))
        self.position = positions[-1] + 1


class Layout:
    """What is dropped is drawn from `rng`; everything else follows from the sample.

    draws: how often a drawn picture stands in its sample, each time with its own noise and time. Noisy pictures do not
    see each other, so each is what it would be alone, and what comes before them is computed once.
    """

    def __init__(
        self, tokenizer: Tokenizer, latent_side: int, rule: ResizeRule, patch: int, draws: int = 1, step: int = ROUND
    ):
        self.tokenizer, self.draws, self.step, self.rule = tokenizer, draws, step, rule
        self.latent_side, self.patch = latent_side, patch
        self.encode = functools.lru_cache(20_000)(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
        self.special = {name: tokenizer.token_to_id(token) for name, token in SPECIAL_TOKENS.items()}
        self.tokens = {"look": [LOOKED] * (rule.max_size // patch) ** 2}
        self.tokens |= dict.fromkeys(("keep", "draw"), [LATENT] * latent_side**2)

    def lay(self, sample: Sample, rng: random.Random) -> Laid:
        out = _Sequence()
        for part, stays in zip(sample, dropped(sample, rng), strict=True):
            if stays:
                self._add(out, part)
        if spare := -len(out.ids) % self.step:
            out.extend([0] * spare, [out.position] * spare, "causal")
        pictures = {scene: received(scene) for scene in dict.fromkeys((*out.looked, *out.shown))}
        return Laid(
            np.array(out.ids, np.int32),
            np.array(out.positions, np.int32),
            tuple(out.splits),
            np.array(out.labels, np.int32).reshape(-1, 2),
            _stack([self._seen(pictures[s]) for s in out.looked], self.rule.max_size),
            _stack([pictures[s] for s in out.shown], SIDE),
            tuple(out.latents),
            looked_facts=_facts(out.looked, self.rule.max_size // self.patch),
            shown_facts=_facts(list(out.shown), self.latent_side),
        )

    def _add(self, out: _Sequence, part: Part) -> None:
        if part.kind in ("read", "write"):
            self._text(out, part)
            return
        here = out.position
        for _ in range(self.draws if part.kind == "draw" else 1):
            out.position = here
            self._image(out, part)
        if part.kind == "draw":
            out.position = here  # what is drawn is read only once it is kept or looked at, from the same position

    def _text(self, out: _Sequence, part: Part) -> None:
        ids = [self.special["im_start"], *self.encode(part.text), self.special["im_end"]]
        if part.kind == "write":
            out.labels += [(len(out.ids) + i, token) for i, token in enumerate(ids[1:])]
        out.extend(ids, list(range(out.position, out.position + len(ids))), "causal")

    def _image(self, out: _Sequence, part: Part) -> None:
        assert part.scene is not None
        if part.kind == "look":
            out.looked.append(part.scene)
        else:
            out.latents.append((out.shown.setdefault(part.scene, len(out.shown)), part.kind == "draw"))
        ids = [self.special["vision_start"], *self.tokens[part.kind], self.special["vision_end"]]
        out.extend(ids, [out.position] * len(ids), "noise" if part.kind == "draw" else "full")

    def _seen(self, picture: np.ndarray) -> np.ndarray:
        return np.asarray(resize(self.rule, Image.fromarray(picture)))


def _stack(pictures: list[np.ndarray], side: int) -> np.ndarray:
    return np.stack(pictures) if pictures else np.zeros((0, side, side, 3), np.uint8)


def _facts(scenes: list[Scene], grid: int) -> np.ndarray:
    return np.stack([facts(scene, grid) for scene in scenes]) if scenes else NO_FACTS


def dropped(sample: Sample, rng: random.Random) -> list[bool]:
    """Which parts stay: each kind of droppable part goes together, as guidance leaves them out."""
    text, look, keep = (rng.random() >= DROP[kind] for kind in ("read", "look", "keep"))
    stays = {"read": text, "write": text, "look": look, "keep": keep, "draw": True}
    return [stays[part.kind] or not part.droppable for part in sample]

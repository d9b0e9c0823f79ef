"""How much of training is not plain: pictures as people make them, sentences as they write them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from bench.nano import wording
from bench.nano.forms import varied
from bench.nano.world import Scene


@dataclass(frozen=True)
class Shares:
    """Of the pictures that are edited or asked about, of all sentences, of all questions; and, beyond what is so by
    chance, of the prompts those that leave colours unsaid, of the looks at plain pictures those that are described.
    Table [shares] of config.toml."""

    pictures: float = 0.0
    sentences: float = 0.0
    unknown: float = 0.0
    unsaid: float = 0.0
    captions: float = 0.0

    def drawn(self, scene: Scene, rng: random.Random) -> Scene:
        """The scene, in its share drawn in another manner than plainly."""
        return varied(scene, rng, "varied") if chance(self.pictures, rng) else scene

    def said(self, text: str, rng: random.Random) -> str:
        """The sentence, in its share as people write it; never one that is kept for the score."""
        return wording.as_people(text, rng, held_out=False) if chance(self.sentences, rng) else text


def chance(share: float, rng: random.Random) -> bool:
    """True in a share of all cases. Of none or all, `rng` is not asked: plain training draws what it always drew."""
    return share >= 1 or (share > 0 and rng.random() < share)


PLAIN = Shares()

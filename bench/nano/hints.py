"""What lies where: told to a model while it learns, and never asked of it later.

A picture's loss says of every pixel how far off it is and nothing of what it shows. So the rows of each picture, as the
ViT gives them and as the middle of the generation expert has them, are to say as well which shapes and colours lie in
their cell; the two small heads that say it are no part of a checkpoint. After Yu et al. 2024, "Representation Alignment
for Generation", which aligns such rows to a trained encoder's: here the truth itself is known.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bagel_export.training.unified import BagelForUnifiedMultimodal
from bench.nano.facts import COUNT


class Heads(nn.Module):
    """From rows (n, hidden) to logits (n, COUNT): of pictures looked at, and of latents. They begin at zero."""

    def __init__(self, hidden: int):
        super().__init__()
        self.looks, self.latents = nn.Linear(hidden, COUNT), nn.Linear(hidden, COUNT)
        for head in (self.looks, self.latents):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)


class Taps:
    """The rows that a model's last forward had: of the pictures looked at, and of latents after its middle layer."""

    def __init__(self, model: BagelForUnifiedMultimodal):
        self.looks = self.latents = torch.zeros(0)
        layers = model.model.language_model.model.layers
        middle: Any = layers[2 * len(layers) // 3 - 1]
        packed, embed = middle.packed, model.model.embed_patches

        def of_layer(*args: Any) -> tuple[Tensor, Tensor]:
            out = packed(*args)
            self.latents = out[1]
            return out

        def of_pictures(*args: Any) -> Tensor:
            self.looks = embed(*args)
            return self.looks

        middle.packed, model.model.embed_patches = of_layer, of_pictures  # type: ignore[method-assign]

    def loss(self, heads: Heads, told: dict[str, Tensor]) -> Tensor:
        """Binary cross-entropy, summed over facts, of the mean cell; told: `looks` and `latents` (n, COUNT)."""
        said = {"looks": (heads.looks, self.looks), "latents": (heads.latents, self.latents)}
        each = (_error(head(rows), told[name]) for name, (head, rows) in said.items() if len(told[name]))
        return sum(each, torch.zeros((), device=self.latents.device))


def _error(logits: Tensor, told: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), told.float(), reduction="none").sum(-1).mean()

"""How input images enter a context."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Encoding:
    """Through the VAE's encoder (vae), through the ViT (vit), or both.

    The other fields are the options of the same name. None: as the artefact's manifest says.
    """

    vae: bool = True
    vit: bool = True
    vae_sample: bool = True
    vit_raw: bool = False
    vit_min_size: int | None = None
    vit_max_pixels: int | None = None

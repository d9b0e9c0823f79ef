"""How many tokens of the model's context a request takes, counted without the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bagel_rt.artefact.manifest import Manifest
from bagel_rt.inputs.images import resized_size
from bagel_rt.inputs.tokenizer import TextCodec

if TYPE_CHECKING:
    from PIL.Image import Image


class Counter:
    """Counts text tokens by the model's tokenizer and picture tokens by its resize rules."""

    def __init__(self, manifest: Manifest):
        self._manifest, self._codec = manifest, TextCodec(manifest)

    def text(self, text: str) -> int:
        """Tokens of a text, with the two marks around it."""
        return len(self._codec.segment(text))

    def written(self, text: str) -> int:
        """Tokens of a text without marks."""
        return self.text(text) - 2 if text else 0

    def drawn(self, width: int, height: int) -> int:
        """Latent tokens of a picture that is drawn."""
        stride = self._manifest.model.latent_stride
        return (width // stride) * (height // stride)

    def image(self, image: Image, draws: bool) -> int:
        """Tokens of an input picture: patches for the ViT and, where something is drawn, latents; marks included."""
        rule, patch = self._manifest.vae_transform, self._manifest.model.vit_patch_size
        width, height = resized_size(rule, *image.size)
        wide, high = resized_size(self._manifest.vit_transform, width, height)
        latents = self.drawn(width, height) + 2 if draws else 0
        return latents + (wide // patch) * (high // patch) + 2

    def inputs(self, items: Sequence[Any], draws: bool) -> tuple[int, int]:
        """(text tokens, picture tokens) of a list of texts and pictures."""
        texts = sum(self.text(item) for item in items if isinstance(item, str))
        return texts, sum(self.image(item, draws) for item in items if not isinstance(item, str))


def picture_usage(inputs: tuple[int, int], pictures: int, plan: int) -> dict[str, Any]:
    """OpenAI's usage object of picture routes."""
    texts, images = inputs
    return {
        "input_tokens": texts + images,
        "input_tokens_details": {"text_tokens": texts, "image_tokens": images},
        "output_tokens": pictures + plan,
        "output_tokens_details": {"image_tokens": pictures, "text_tokens": plan},
        "total_tokens": texts + images + pictures + plan,
    }

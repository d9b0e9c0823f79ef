"""A scene's picture, plain or as some hand draws it, and what the model receives of it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from bagel_rt.artefact.manifest import ResizeRule
from bagel_rt.inputs.images import resize
from bench.nano import people, varied
from bench.nano.render import render
from bench.nano.world import SIDE, Scene

HANDS = {"varied": varied.paint, "people": people.paint}
RULE = ResizeRule(SIDE, SIDE, 16)  # what bagel-nano brings every picture to, before its VAE and its ViT


def picture(scene: Scene) -> Image.Image:
    """As it is handed over: of any side, with JPEG's traces where the manner has them."""
    if scene.manner is None:
        return Image.fromarray(render(scene))
    image = Image.fromarray(HANDS[scene.manner.hand](scene))
    return image if scene.manner.quality is None else _through_jpeg(image, scene.manner.quality)


def _through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def received(scene: Scene) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: the picture as the model reads it."""
    return np.asarray(resize(RULE, picture(scene)))

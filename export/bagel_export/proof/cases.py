"""What is run to prove an artefact: built-in cases that pass through every stage, small enough for any machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bagel_rt.artefact.manifest import Manifest
from bagel_rt.options import defaults
from bagel_rt.options.defaults import with_values
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.text_options import TextOptions

Trace = dict[str, np.ndarray]  # what a run computed, under the keys of the recorded runs (proof/records.py)


@dataclass(frozen=True)
class Case:
    """One call of `interleave`: texts, images as uint8 (height, width, 3), and its options, the seed among them."""

    name: str
    items: tuple[str | np.ndarray, ...]
    output: Literal["image", "text"]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image_options(self) -> ImageOptions:
        return with_values(defaults.INTERLEAVE, self.options)

    @property
    def text_options(self) -> TextOptions:
        """The options of the answer, or of the plan that is written before a picture."""
        return self.image_options.text if self.output == "image" else with_values(defaults.ANSWER, self.options)

    @property
    def think(self) -> bool:
        return bool(self.options.get("think", False))


def built_in(manifest: Manifest) -> list[Case]:
    """Cases for an artefact: drawing, an edit with a plan and all three guidance branches, and a question."""
    ask = Case("question", (picture(), "What is in this image?"), "text", {"max_tokens": 8, "seed": 1})
    if manifest.task != "full":
        return [ask]
    side = min(128, manifest.model.latent_stride * manifest.model.max_latent_size)
    draw = {"height": side, "width": side, "num_timesteps": 4, "cfg_text_scale": 4.0, "cfg_img_scale": 1.0, "seed": 1}
    change = {
        "cfg_text_scale": 4.0,
        "cfg_img_scale": 2.0,
        "cfg_interval": (0.0, 1.0),
        "cfg_renorm_type": "text_channel",
        "num_timesteps": 4,
        "think": True,
        "max_think_tokens": 8,
        "seed": 1,
    }
    return [
        Case("picture", ("A red cube on a blue sphere.",), "image", draw),
        Case("edit", (picture(), "Make the sky green."), "image", change),
        ask,
    ]


def picture() -> np.ndarray:
    """A small scene, uint8 (64, 96, 3): soft sky, hard edges, one disc; the same numbers everywhere."""
    rows, columns = np.mgrid[0:64, 0:96]
    scene = np.stack([columns * 2, rows * 3, 255 - columns * 2], axis=-1).astype(np.uint8)
    scene[40:] = (96, 64, 32)
    scene[(rows - 20) ** 2 + (columns - 70) ** 2 < 100] = (250, 220, 40)
    scene[30:52, 12:34] = (200, 30, 30)
    return scene

"""The options that a style or a caller may name for the texts and the pictures of a loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bagel_rt.errors import InputError
from bagel_rt.options.defaults import EDIT, GENERATE, with_values
from bagel_rt.options.image_options import DrawingKeywords, ImageOptions
from bagel_rt.options.names import did_you_mean
from bagel_rt.options.text_options import TextOptions

TEXT = ("max_tokens", "do_sample", "text_temperature", "top_k", "top_p", "prompt_lookup")
IMAGE = (
    "height", "width", "cfg_text_scale", "cfg_img_scale", "cfg_interval", "cfg_renorm_min", "cfg_renorm_type",
    "cfg_rule", "cfg_zero_steps", "cfg_stop_similarity", "apg_eta", "apg_momentum", "apg_norm_threshold",
    "timestep_shift", "num_timesteps", "solver", "step_cache", "step_cache_threshold", "step_mask", "first_pass",
    "second_pass_strength", "stretch_positions", "vae_sample", "negative_prompt",
)  # fmt: skip


class ReasonKeywords(DrawingKeywords, total=False):
    """Options of a loop's texts and pictures, in place of the style's; each is explained with TextOptions and
    ImageOptions."""

    top_k: int | None
    top_p: float | None


def text_defaults(values: Mapping[str, Any]) -> TextOptions:
    _check_names(values, TEXT)
    return with_values(TextOptions(), values)


def image_defaults(values: Mapping[str, Any], edits: bool = True) -> ImageOptions:
    """edits: where the values say nothing they are as in edit, else as in generate."""
    _check_names(values, IMAGE)
    return with_values(EDIT if edits else GENERATE, values)


def split(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords of a call as those of its texts and those of its pictures. Raises InputError for any other."""
    _check_names(values, (*TEXT, *IMAGE))
    return {k: v for k, v in values.items() if k in TEXT}, {k: v for k, v in values.items() if k in IMAGE}


def _check_names(values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in values:
        if name not in known:
            hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
            raise InputError(f"unknown option {name!r}{hint}")

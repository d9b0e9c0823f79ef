"""Options of a picture: the checked class, and the keywords that editors and type checkers know."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal, TypedDict

import numpy as np

from bagel_rt.options import checks
from bagel_rt.options.encoding import Encoding
from bagel_rt.options.fields import check_all, explains, option
from bagel_rt.options.text_options import (
    PIXELS,
    SEED,
    TEMPERATURE,
    TEXT_TEMPERATURE,
    TOKENS,
    VIT_MAX_PIXELS,
    VIT_MIN_SIZE,
    VIT_RAW,
    TextOptions,
)
from bagel_rt.sampling.guidance import RENORM_TYPES, Guidance
from bagel_rt.sampling.step_cache import STEP_CACHES


@dataclass(frozen=True)
class ImageOptions:
    """How a picture is drawn, in BAGEL's own names. The defaults are the official notebook's for text-to-image."""

    height: int | None = option(
        None, "pixels, a multiple of 16; left out: the last input image's, else the model's largest square", PIXELS
    )
    width: int | None = option(None, "pixels, a multiple of 16; left out: as for the height", PIXELS)
    seed: int | None = option(None, "any integer; left out: a new one, which is reported", SEED)
    cfg_text_scale: float = option(4.0, "how strongly the text guides; 1 or less: not at all", checks.number)
    cfg_img_scale: float = option(
        1.0,
        "how strongly the input images guide; 1 or less: not at all. Acts where the text guides, too",
        checks.number,
        needs=("cfg_text_scale",),
    )
    cfg_interval: tuple[float, float] = option(
        (0.4, 1.0),
        "guidance acts for LO < t <= HI, where t runs from 1 (noise) to 0 (picture)",
        checks.interval,
        needs=("cfg_text_scale",),
    )
    cfg_renorm_min: float = option(
        0.0,
        "lowest factor of the renormalisation, 0 to 1",
        partial(checks.number, low=0.0, high=1.0),
        needs=("cfg_text_scale",),
    )
    cfg_renorm_type: Literal["global", "channel", "text_channel"] = option(
        "global",
        "what guided steps are scaled back by: global, channel or text_channel",
        partial(checks.choice, allowed=RENORM_TYPES),
        needs=("cfg_text_scale",),
    )
    timestep_shift: float = option(3.0, "above 1: more of the steps near the noise", checks.shift)
    num_timesteps: int = option(
        50,
        "points of the schedule: N points are N - 1 steps of the model",
        partial(checks.whole, least=2, most=checks.MOST),
    )
    step_cache: Literal["taylorseer"] | None = option(
        None,
        "taylorseer: forecast two of three steps, faster and less exact",
        partial(checks.choice, allowed=STEP_CACHES, optional=True),
    )
    think: bool = option(False, "write a plan before drawing", checks.flag)
    max_think_tokens: int = option(1000, "longest plan, in tokens; acts with think", TOKENS, needs=("think",))
    do_sample: bool = option(
        False, "sample the plan's tokens instead of taking the likeliest ones", checks.flag, needs=("think",)
    )
    text_temperature: float = option(0.3, TEXT_TEMPERATURE, TEMPERATURE, needs=("think", "do_sample"))
    vae_sample: bool = option(True, "encode input images with noise, as in training", checks.flag, images=True)
    vae_seed: int | None = option(
        None, "encode input images with another seed's noise; left out: with the picture's own", SEED, images=True
    )
    vit_raw: bool = option(False, VIT_RAW, checks.flag, images=True, on_command_line=False)
    vit_min_size: int | None = option(None, VIT_MIN_SIZE, PIXELS, images=True, on_command_line=False)
    vit_max_pixels: int | None = option(None, VIT_MAX_PIXELS, PIXELS, images=True, on_command_line=False)
    negative_prompt: str | None = option(
        None,
        "what to lead away from, by the strength of cfg_text_scale; left out: from no text",
        partial(checks.text, optional=True),
        needs=("cfg_text_scale",),
    )
    cfg_text_system: bool = option(
        True,
        "False: text guidance's context has a gap where think's system prompt is",
        checks.flag,
        needs=("think",),
        on_command_line=False,
    )
    cfg_img_thought: bool = option(
        False, "the plan enters image guidance's context, too", checks.flag, needs=("think",), on_command_line=False
    )
    noise: np.ndarray | None = option(
        None, "(h * w, 64) floats in place of the seed's initial noise", checks.noise, on_command_line=False
    )

    def __post_init__(self) -> None:
        check_all(self)
        checks.sampling(self.text_temperature, self.do_sample)

    @property
    def guidance(self) -> Guidance:
        return Guidance(
            self.cfg_text_scale, self.cfg_img_scale, self.cfg_interval, self.cfg_renorm_min, self.cfg_renorm_type
        )

    @property
    def encoding(self) -> Encoding:
        return Encoding(True, True, self.vae_sample, self.vit_raw, self.vit_min_size, self.vit_max_pixels)

    @property
    def text(self) -> TextOptions:
        """The options that the text written before the picture (think) is written with."""
        return TextOptions(
            think=True,
            max_tokens=self.max_think_tokens,
            do_sample=self.do_sample,
            text_temperature=self.text_temperature,
            seed=self.seed,
        )

    def describe(self) -> dict[str, Any]:
        """For results and PNG metadata: every option as JSON values, given noise only as a remark."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "cfg_interval": list(self.cfg_interval), "noise": None if self.noise is None else "given"}


explains(ImageOptions())(ImageOptions)


@explains(ImageOptions(), without=("seed", "vae_seed"))
class ImageTurnKeywords(TypedDict, total=False):
    """Options of a picture in a session, which has its own seed."""

    height: int | None
    width: int | None
    cfg_text_scale: float
    cfg_img_scale: float
    cfg_interval: tuple[float, float]
    cfg_renorm_min: float
    cfg_renorm_type: Literal["global", "channel", "text_channel"]
    timestep_shift: float
    num_timesteps: int
    step_cache: Literal["taylorseer"] | None
    think: bool
    max_think_tokens: int
    do_sample: bool
    text_temperature: float
    vae_sample: bool
    vit_raw: bool
    vit_min_size: int | None
    vit_max_pixels: int | None
    negative_prompt: str | None
    cfg_text_system: bool
    cfg_img_thought: bool
    noise: np.ndarray | None


@explains(ImageOptions(), without=("seed",))
class ImageKeywords(ImageTurnKeywords, total=False):
    """Options of a picture. `seed`, which may be several, and `images` are parameters of the calls."""

    vae_seed: int | None

"""Options of a picture: the checked class, and the keywords that editors and type checkers know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal, TypedDict

import numpy as np

from bagel_rt.errors import InputError
from bagel_rt.options import checks
from bagel_rt.options.encoding import Encoding
from bagel_rt.options.fields import check_all, explains, option
from bagel_rt.options.text_options import (
    ADAPTER,
    GUESSES,
    PIXELS,
    PROMPT_LOOKUP,
    SEED,
    SYSTEM,
    SYSTEM_TEXT,
    TEMPERATURE,
    TEXT_TEMPERATURE,
    TOKENS,
    VIT_MAX_PIXELS,
    VIT_MIN_SIZE,
    VIT_RAW,
    TextOptions,
)
from bagel_rt.sampling.guidance import RENORM_TYPES, RULES, Guidance, Projection
from bagel_rt.sampling.solvers import SOLVERS
from bagel_rt.sampling.step_cache import TAYLORSEER
from bagel_rt.sampling.velocity_cache import FORECASTS

STEP_CACHES = (TAYLORSEER, *FORECASTS)


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
    cfg_rule: Literal["cfg", "cfg_zero_star", "apg"] = option(
        "cfg",
        "how the text guides: cfg (the official code's), cfg_zero_star or apg (adaptive projected guidance)",
        partial(checks.choice, allowed=RULES),
        needs=("cfg_text_scale",),
    )
    cfg_zero_steps: int = option(
        0,
        "so many first steps leave the noise as it is (zero init); 1 or 2 of 50 are usual",
        partial(checks.whole, least=0),
    )
    cfg_stop_similarity: float | None = option(
        None,
        "guidance ends once the two velocities of the text's are so much alike (a cosine, 0.99 say); faster. Left out:"
        " never",
        partial(checks.number, low=-1.0, high=1.0, optional=True),
        needs=("cfg_text_scale",),
    )
    apg_eta: float = option(
        0.0, "apg: the share kept of guidance along the picture itself", checks.number, needs=("cfg_rule=apg",)
    )
    apg_momentum: float = option(
        -0.5, "apg: the share of the last step's guidance added to this one's", checks.number, needs=("cfg_rule=apg",)
    )
    apg_norm_threshold: float = option(
        0.0,
        "apg: the greatest length of a step's guidance, over all latents; 0: any",
        partial(checks.number, low=0.0),
        needs=("cfg_rule=apg",),
    )
    timestep_shift: float = option(3.0, "above 1: more of the steps near the noise", checks.shift)
    num_timesteps: int = option(
        50,
        "points of the schedule: N points are N - 1 steps of the model",
        partial(checks.whole, least=2, most=checks.MOST),
    )
    solver: Literal["euler", "heun", "dpm++2m", "unipc"] = option(
        "euler",
        "how the steps are taken: euler (the official code's), heun (evaluates each step twice), dpm++2m or unipc",
        partial(checks.choice, allowed=tuple(SOLVERS)),
    )
    step_cache: Literal["taylorseer", "easycache", "polynomial", "exponential"] | None = option(
        None,
        "forecast some steps, faster and less exact: taylorseer (the official code's, two of three), polynomial or"
        " exponential (the same steps, from velocities alone), easycache (as many as step_cache_threshold allows)",
        partial(checks.choice, allowed=STEP_CACHES, optional=True),
    )
    step_cache_threshold: float = option(
        0.05,
        "easycache: forecast while the velocity has changed by less than this share",
        checks.positive,
        needs=("step_cache=easycache",),
    )
    step_mask: str | None = option(
        None,
        "which steps a step cache evaluates, a 1 or 0 for each, as 1101001; left out: its own choice",
        checks.step_mask,
    )
    first_pass: float | None = option(
        None,
        "draw at this share of the size first (0.5 say), then enlarge and draw again; left out: at the size itself",
        partial(checks.share, optional=True),
    )
    second_pass_strength: float = option(
        0.5, "the share of its steps that the enlarged picture goes through", checks.share, needs=("first_pass",)
    )
    stretch_positions: bool = option(
        False, "allow sides up to twice the model's largest, at positions it was not trained with", checks.flag
    )
    think: bool = option(False, "write a plan before drawing", checks.flag)
    system: str | None = option(None, SYSTEM, SYSTEM_TEXT)
    adapter: str | Mapping[str, float] | None = option(None, ADAPTER, checks.adapters)
    max_think_tokens: int = option(1000, "longest plan, in tokens; acts with think", TOKENS, needs=("think",))
    do_sample: bool = option(
        False, "sample the plan's tokens instead of taking the likeliest ones", checks.flag, needs=("think",)
    )
    text_temperature: float = option(0.3, TEXT_TEMPERATURE, TEMPERATURE, needs=("think", "do_sample"))
    prompt_lookup: int = option(0, PROMPT_LOOKUP, GUESSES, needs=("think",))
    vae_sample: bool = option(True, "encode input images with noise, as in training", checks.flag, images=True)
    vae_seed: int | None = option(
        None, "encode input images with another seed's noise; left out: with the picture's own", SEED, images=True
    )
    vit_raw: bool = option(False, VIT_RAW, checks.flag, images=True, on_command_line=False)
    vit_min_size: int | None = option(None, VIT_MIN_SIZE, PIXELS, images=True, on_command_line=False)
    vit_max_pixels: int | None = option(None, VIT_MAX_PIXELS, PIXELS, images=True, on_command_line=False)
    strength: float | None = option(
        None,
        "begin with the input image, noised: the share of the steps it goes through, 1 the most; left out: with noise",
        partial(checks.share, optional=True),
        images=True,
    )
    mask: Any = option(
        None,
        "a picture of the input image's size: what is white in it, or else transparent, is drawn anew, and every other"
        " pixel stays",
        checks.mask,
        images=True,
        on_command_line=False,
    )
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
        check_together(self)

    @property
    def guidance(self) -> Guidance:
        projection = Projection(self.apg_eta, self.apg_momentum, self.apg_norm_threshold)
        return Guidance(
            self.cfg_text_scale,
            self.cfg_img_scale,
            self.cfg_interval,
            self.cfg_renorm_min,
            self.cfg_renorm_type,
            self.cfg_rule,
            projection,
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
            prompt_lookup=self.prompt_lookup,
        )

    def describe(self) -> dict[str, Any]:
        """For results and PNG metadata: every option as JSON values, given arrays only as a remark."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        given = {name: None if values[name] is None else "given" for name in ("noise", "mask")}
        return {**values, "cfg_interval": list(self.cfg_interval), **given}


def check_together(opts: ImageOptions) -> None:
    """Raise InputError for options that are right alone and cannot act together."""
    steps = opts.num_timesteps - 1
    if opts.solver == "heun" and opts.step_cache:
        raise InputError(
            "solver heun evaluates each step twice, step_cache forecasts whole steps; leave one of them out"
        )
    if opts.cfg_zero_steps >= steps:
        raise InputError(f"cfg_zero_steps is {opts.cfg_zero_steps}; fewer than the {steps} steps are expected")
    if opts.first_pass is not None and (opts.strength is not None or opts.mask is not None):
        raise InputError("first_pass begins with noise, strength and mask with the input image; leave one of them out")
    if opts.step_mask is None:
        return
    if opts.step_cache in (None, TAYLORSEER):
        raise InputError(f"step_mask needs step_cache {', '.join(FORECASTS)}, not {opts.step_cache}")
    if len(opts.step_mask) != steps:
        raise InputError(
            f"step_mask has {len(opts.step_mask)} digits; {steps} are expected, one for each step of"
            f" {opts.num_timesteps} points"
        )


explains(ImageOptions())(ImageOptions)


class DrawingKeywords(TypedDict, total=False):
    """Options that pictures have in a turn of their own and in a loop of words and pictures; see ImageOptions."""

    height: int | None
    width: int | None
    cfg_text_scale: float
    cfg_img_scale: float
    cfg_interval: tuple[float, float]
    cfg_renorm_min: float
    cfg_renorm_type: Literal["global", "channel", "text_channel"]
    cfg_rule: Literal["cfg", "cfg_zero_star", "apg"]
    cfg_zero_steps: int
    cfg_stop_similarity: float | None
    apg_eta: float
    apg_momentum: float
    apg_norm_threshold: float
    timestep_shift: float
    num_timesteps: int
    solver: Literal["euler", "heun", "dpm++2m", "unipc"]
    step_cache: Literal["taylorseer", "easycache", "polynomial", "exponential"] | None
    step_cache_threshold: float
    step_mask: str | None
    first_pass: float | None
    second_pass_strength: float
    stretch_positions: bool
    do_sample: bool
    text_temperature: float
    prompt_lookup: int
    vae_sample: bool
    negative_prompt: str | None


@explains(ImageOptions(), without=("seed", "vae_seed", "system", "adapter"))
class ImageTurnKeywords(DrawingKeywords, total=False):
    """Options of a picture in a session, which has its own seed, system prompt and adapter."""

    think: bool
    max_think_tokens: int
    vit_raw: bool
    vit_min_size: int | None
    vit_max_pixels: int | None
    strength: float | None
    mask: Any
    cfg_text_system: bool
    cfg_img_thought: bool
    noise: np.ndarray | None


@explains(ImageOptions(), without=("seed",))
class ImageKeywords(ImageTurnKeywords, total=False):
    """Options of a picture. `seed`, which may be several, and `images` are parameters of the calls."""

    vae_seed: int | None
    system: str | None
    adapter: str | Mapping[str, float] | None

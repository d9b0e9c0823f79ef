"""Options of a call: frozen, checked, and with BAGEL's own names. The command line takes its defaults from here.

`num_timesteps` counts points of the schedule as the official code does: N points are N - 1 model evaluations.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from bagel_rt.errors import InputError
from bagel_rt.options import checks
from bagel_rt.sampling.guidance import RENORM_TYPES, Guidance

STEP_CACHES = ("taylorseer",)


@dataclass(frozen=True)
class Encoding:
    """How input images enter a context: through the VAE's encoder (vae), through the ViT (vit), or both.

    The other fields are the options of the same name below. None: as the artefact's manifest says.
    """

    vae: bool = True
    vit: bool = True
    vae_sample: bool = True
    vit_raw: bool = False
    vit_min_size: int | None = None
    vit_max_pixels: int | None = None


@dataclass(frozen=True)
class ImageOptions:
    """How a picture is drawn. The defaults here are the official notebook's for text-to-image."""

    height: int | None = None  # pixels; None: the last image's resized height, without images the largest square
    width: int | None = None
    seed: int | None = None  # None draws one and reports it
    cfg_text_scale: float = 4.0  # 1 or less: no text guidance
    cfg_img_scale: float = 1.0  # 1 or less: no image guidance
    cfg_interval: tuple[float, float] = (0.4, 1.0)  # guidance acts for lo < t <= hi; t runs from 1 to 0
    cfg_renorm_min: float = 0.0
    cfg_renorm_type: str = "global"
    timestep_shift: float = 3.0
    num_timesteps: int = 50
    step_cache: str | None = None  # "taylorseer": forecast two steps of three
    think: bool = False  # write a plan first
    max_think_tokens: int = 1000
    do_sample: bool = False  # of the think text
    text_temperature: float = 0.3
    vae_sample: bool = True  # False: input images enter as the posterior's mean, without noise
    vae_seed: int | None = None  # encode input images with another seed's noise; None: with this one's
    vit_raw: bool = False  # the ViT sees the image as given; False: as resized for the VAE
    vit_min_size: int | None = None  # pixels of the ViT image's short side at least; None: as the artefact says
    vit_max_pixels: int | None = None  # None: as the artefact says
    negative_prompt: str | None = None  # text guidance leads away from this text; None: from no text
    cfg_text_system: bool = True  # False: the text-guidance context has a gap where the system prompt is
    cfg_img_thought: bool = False  # True: the think text enters the image-guidance context, too
    noise: np.ndarray | None = None  # (h * w, 64) float32 in place of the seed's initial noise

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            checks.whole(name, getattr(self, name), least=1, optional=True)
        checks.whole("seed", self.seed, least=None, optional=True)
        for name in ("cfg_text_scale", "cfg_img_scale"):
            checks.number(name, getattr(self, name))
        checks.interval(self.cfg_interval)
        object.__setattr__(self, "cfg_interval", tuple(float(v) for v in self.cfg_interval))
        checks.number("cfg_renorm_min", self.cfg_renorm_min, 0.0, 1.0)
        checks.choice("cfg_renorm_type", self.cfg_renorm_type, RENORM_TYPES)
        checks.positive("timestep_shift", self.timestep_shift)
        checks.whole("num_timesteps", self.num_timesteps, least=2)
        if self.step_cache is not None:
            checks.choice("step_cache", self.step_cache, STEP_CACHES)
        for name in ("think", "do_sample", "vae_sample", "vit_raw", "cfg_text_system", "cfg_img_thought"):
            checks.flag(name, getattr(self, name))
        checks.whole("vae_seed", self.vae_seed, least=None, optional=True)
        for name in ("vit_min_size", "vit_max_pixels"):
            checks.whole(name, getattr(self, name), least=1, optional=True)
        if self.negative_prompt is not None:
            checks.text("negative_prompt", self.negative_prompt)
        checks.whole("max_think_tokens", self.max_think_tokens, least=1)
        checks.temperature(self.text_temperature, self.do_sample)
        if self.noise is not None:
            checks.noise(self.noise)

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


@dataclass(frozen=True)
class TextOptions:
    """How an answer is written. The defaults are the official notebook's."""

    think: bool = False
    max_tokens: int = 1000  # the official length rule: at most max_tokens - 1 tokens come back
    do_sample: bool = False
    text_temperature: float = 0.3
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    vit_raw: bool = False  # as in ImageOptions
    vit_min_size: int | None = None
    vit_max_pixels: int | None = None

    def __post_init__(self) -> None:
        for name in ("think", "do_sample", "vit_raw"):
            checks.flag(name, getattr(self, name))
        for name in ("vit_min_size", "vit_max_pixels"):
            checks.whole(name, getattr(self, name), least=1, optional=True)
        checks.whole("max_tokens", self.max_tokens, least=1)
        checks.temperature(self.text_temperature, self.do_sample)
        checks.whole("top_k", self.top_k, least=1, optional=True)
        if self.top_p is not None:
            checks.number("top_p", self.top_p, 0.0, 1.0)
            if self.top_p == 0:
                raise InputError("top_p is 0; a number above 0 and up to 1 is expected")
        checks.whole("seed", self.seed, least=None, optional=True)

    @property
    def encoding(self) -> Encoding:
        """Images enter through the ViT alone."""
        return Encoding(False, True, False, self.vit_raw, self.vit_min_size, self.vit_max_pixels)

    def describe(self) -> dict[str, Any]:
        """For results: every option as JSON values."""
        return asdict(self)


GENERATE = ImageOptions()
EDIT = ImageOptions(cfg_img_scale=2.0, cfg_interval=(0.0, 1.0), cfg_renorm_type="text_channel")
INTERLEAVE = ImageOptions(cfg_text_scale=3.0, cfg_img_scale=1.5)  # the defaults of interleave_inference
ANSWER = TextOptions()

Options = TypeVar("Options", ImageOptions, TextOptions)


def with_values(defaults: Options, values: Mapping[str, Any]) -> Options:
    """The defaults with some values replaced. An unknown name is refused with the nearest known one."""
    known = [f.name for f in fields(defaults)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise InputError(f"unknown option {name!r}; {hint}")
    return replace(defaults, **values)

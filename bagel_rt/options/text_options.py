"""Options of a written answer: the checked class, and the keywords that editors and type checkers know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypedDict

from bagel_rt.options import checks
from bagel_rt.options.encoding import Encoding
from bagel_rt.options.fields import check_all, explains, option
from bagel_rt.sampling.prompt_lookup import MOST

SEED = partial(checks.whole, least=None, optional=True)
PIXELS = partial(checks.whole, least=1, optional=True)
TOKENS = partial(checks.whole, least=1)
TEMPERATURE = partial(checks.number, low=0.0)
SYSTEM_TEXT = partial(checks.text, optional=True)
GUESSES = partial(checks.whole, least=0, most=MOST)

# descriptions of options for input images, which answers and pictures have in common
VIT_RAW = "the ViT sees the image as given, not as resized for the VAE"
VIT_MIN_SIZE = "pixels that the short side of the ViT's image has at least; left out: as the model's settings say"
VIT_MAX_PIXELS = "pixels that the ViT's image has at most; left out: as the model's settings say"
SYSTEM = (
    "system prompt: a text that stands before everything else, in place of think's own; left out: the one that the"
    " artefact keeps; empty: not that either"
)
ADAPTER = (
    "which of the adapters that the model was loaded with: a name, a name and how much of it (style=0.8), or several of"
    " those; left out: none"
)
TEXT_TEMPERATURE = "of sampled text: above 1 more varied, near 0 always the likeliest token; acts with do_sample"

PROMPT_LOOKUP = (
    "tokens guessed at a time from what was read and written, and kept where they are what the model chooses, 0 to 7;"
    " 0: none"
)
STOP = (
    "texts at which an answer ends, wherever the borders of its tokens are; neither such a text nor what follows is"
    " part of the answer"
)


@dataclass(frozen=True)
class TextOptions:
    """How an answer is written. The defaults are the official notebook's."""

    think: bool = option(False, "reason before answering", checks.flag)
    system: str | None = option(None, SYSTEM, SYSTEM_TEXT)
    adapter: str | Mapping[str, float] | None = option(None, ADAPTER, checks.adapters)
    max_tokens: int = option(
        1000, "longest answer, in tokens; as in the official code, N of them are N - 1 and a start token", TOKENS
    )
    do_sample: bool = option(False, "sample tokens instead of taking the likeliest one", checks.flag)
    text_temperature: float = option(0.3, TEXT_TEMPERATURE, TEMPERATURE, needs=("do_sample",))
    top_k: int | None = option(
        None, "sample among the k likeliest tokens; acts with do_sample", PIXELS, needs=("do_sample",)
    )
    top_p: float | None = option(
        None,
        "sample among the likeliest tokens that reach this probability; acts with do_sample",
        partial(checks.share, optional=True),
        needs=("do_sample",),
    )
    seed: int | None = option(None, "of sampled text: any integer; left out: a new one, which is reported", SEED)
    stop: tuple[str, ...] | None = option(None, STOP, checks.stops)
    prompt_lookup: int = option(0, PROMPT_LOOKUP, GUESSES)
    vit_raw: bool = option(False, VIT_RAW, checks.flag, images=True, on_command_line=False)
    vit_min_size: int | None = option(None, VIT_MIN_SIZE, PIXELS, images=True, on_command_line=False)
    vit_max_pixels: int | None = option(None, VIT_MAX_PIXELS, PIXELS, images=True, on_command_line=False)

    def __post_init__(self) -> None:
        check_all(self)
        checks.sampling(self.text_temperature, self.do_sample)

    @property
    def encoding(self) -> Encoding:
        """Images enter through the ViT alone."""
        return Encoding(False, True, False, self.vit_raw, self.vit_min_size, self.vit_max_pixels)

    def describe(self) -> dict[str, Any]:
        """For results: every option as JSON values."""
        return asdict(self)


explains(TextOptions())(TextOptions)


@explains(TextOptions(), without=("think", "system", "adapter", "seed"))
class TextTurnKeywords(TypedDict, total=False):
    """Options of an answer in a session, which has its own `think`, `system`, `adapter` and `seed`."""

    max_tokens: int
    do_sample: bool
    text_temperature: float
    top_k: int | None
    top_p: float | None
    stop: tuple[str, ...] | None
    prompt_lookup: int
    vit_raw: bool
    vit_min_size: int | None
    vit_max_pixels: int | None


@explains(TextOptions())
class TextKeywords(TextTurnKeywords, total=False):
    """Options of an answer."""

    think: bool
    system: str | None
    adapter: str | Mapping[str, float] | None
    seed: int | None

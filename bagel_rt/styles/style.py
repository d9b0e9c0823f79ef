"""A style: what a model's own loop of words and pictures is, as checked data. docs/reasoning.md says it by example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from bagel_rt.errors import InputError
from bagel_rt.options import checks
from bagel_rt.options.fields import check_all, option
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.text_options import TextOptions
from bagel_rt.styles.tables import image_defaults, text_defaults

NEXT = ("tag", "token", "always", "never", "judge")
ORDERS = ("images first", "prompt first")
VIEWS = ("vit", "vae", "vae+vit")
NEGATIVES = ("base", "rebuilt", "frozen", "apart")
FAILED = ("stop", "skip")
Pair = tuple[str, str]
Rule = tuple[int, int, int]  # max_size, min_size, stride


def several(check: Callable[[str, Any], Any], name: str, value: Any) -> tuple:
    """A list, each value of it checked."""
    if not isinstance(value, list | tuple):
        raise InputError(f"{name} is {checks.shown(value)}; a list is expected")
    return tuple(check(f"{name}[{i}]", one) for i, one in enumerate(value))


def words(name: str, value: Any) -> str:
    """A text that is not empty."""
    if not checks.text(name, value):
        raise InputError(f"{name} is ''; a text of one character or more is expected")
    return str(value)


def pair(name: str, value: Any) -> Pair:
    """The words before and behind something; behind it may be nothing: up to the text's end."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise InputError(f"{name} is {checks.shown(value)}; two texts are expected: what stands before, what behind")
    return words(f"{name}[0]", value[0]), checks.text(f"{name}[1]", value[1])


def rule(name: str, value: Any) -> Rule | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise InputError(f"{name} is {checks.shown(value)}; three integers are expected: most, least, stride")
    most, least, stride = (checks.whole(f"{name}[{i}]", one, least=1) for i, one in enumerate(value))
    if least > most:
        raise InputError(f"{name} is {[most, least, stride]}; the least side must not be above the most")
    return most, least, stride


def _choice(*allowed: str) -> Callable[[str, Any], str]:
    return partial(checks.choice, allowed=allowed)


TEXTS = partial(several, words)
PAIRS = partial(several, pair)
COUNT = partial(checks.whole, least=1)


@dataclass(frozen=True)
class TurnRules:
    """Who decides what comes next, and what ends the loop."""

    next: Literal["tag", "token", "always", "never", "judge"] = option(
        "tag",
        "what decides whether a picture comes next: a tag in the text; the token that is decoded behind <|im_end|>;"
        " always a picture, until a text ends the loop; never one; judge: draw, then judge and edit ([judge])",
        _choice(*NEXT),
    )
    picture_tag: str = option("<image_start>", "next = tag: a text that holds it asks for a picture", words)
    picture_token: str = option("<|vision_start|>", "next = token: asks for a picture", words)
    end_token: str = option("<|endoftext|>", "next = token: ends the loop; any other asks for a text", words)
    ends: tuple[str, ...] = option((), "a text that holds one of these is the last", TEXTS)
    stop_at: tuple[str, ...] = option(
        (), "a text ends where it has written one of these; neither it nor what follows is part of the text", TEXTS
    )
    answer: tuple[Pair, ...] = option(
        (), "what stands before and behind the answer in the last text; the first pair that is found", PAIRS
    )
    most_turns: int = option(40, "texts and pictures together, at most", COUNT)
    strip: bool = option(False, "texts lose the white space around them before they are read", checks.flag)
    failed_pictures: Literal["stop", "skip"] = option(
        "stop", "skip: a picture that cannot be drawn is left out, and a text comes next", _choice(*FAILED)
    )

    def __post_init__(self) -> None:
        check_all(self)


@dataclass(frozen=True)
class ContextRules:
    """What texts and pictures are made behind, and what guidance leads away from."""

    kept: bool = option(
        True, "one context for all turns; false: as if made anew for each, texts and pictures with a view of their own",
        checks.flag,
    )  # fmt: skip
    text_view: Literal["vit", "vae", "vae+vit"] = option(
        "vae+vit", "how pictures enter what texts are written behind", _choice(*VIEWS)
    )
    picture_view: Literal["vit", "vae", "vae+vit"] = option(
        "vae+vit", "how pictures enter what pictures are drawn behind", _choice(*VIEWS)
    )
    negatives: Literal["base", "rebuilt", "frozen", "apart"] = option(
        "base",
        "what the two negatives hold. base: as the official code builds them, the model's own texts as its plans are,"
        " in neither; rebuilt: its own texts count as if they had been given; frozen: only what was given; apart:"
        " pictures alone against texts alone",
        _choice(*NEGATIVES),
    )
    order: Literal["images first", "prompt first"] = option(
        "images first", "the order of what was given", _choice(*ORDERS)
    )
    before_picture: str = option("", "a text that enters before each picture of its own", checks.text)
    after_picture: str = option("", "a text that enters behind each picture of its own", checks.text)

    def __post_init__(self) -> None:
        check_all(self)
        if self.kept and self.text_view != self.picture_view:
            raise InputError(
                f"text_view is {self.text_view!r} and picture_view {self.picture_view!r} with kept = true, which means"
                " one context for both; make them equal, or say kept = false"
            )


@dataclass(frozen=True)
class SizeRules:
    """Sizes in pixels. Where the model's position tables end before them, the model's own are used."""

    vae: Rule | None = option(None, "how input images are resized for the VAE: most, least side, stride", rule)
    vit: Rule | None = option(None, "how input images are resized for the ViT: most, least side, stride", rule)
    height: int | None = option(
        None, "of a picture, when no image was given", partial(checks.whole, least=1, optional=True)
    )
    width: int | None = option(
        None, "of a picture, when no image was given", partial(checks.whole, least=1, optional=True)
    )

    def __post_init__(self) -> None:
        check_all(self)
        if (self.height is None) != (self.width is None):
            raise InputError(f"height is {self.height}, width {self.width}; name both, or neither")


@dataclass(frozen=True)
class JudgeRules:
    """next = judge: a plan and a picture; then it is judged in words and edited as suggested, some times over."""

    texts: int = option(
        2, "texts of a judgement: the last holds the suggestion", partial(checks.whole, least=1, most=9)
    )
    suggestion: Pair = option(("<sugg>", "</sugg>"), "what stands before and behind the suggestion", pair)
    good: tuple[str, ...] = option((), "a suggestion that holds one of these ends the loop", TEXTS)
    rounds: int = option(3, "judgements, at most", COUNT)

    def __post_init__(self) -> None:
        check_all(self)


@dataclass(frozen=True)
class Style:
    """How a model reasons. `text` and `image` are the options its texts and its pictures begin with."""

    name: str = option("unnamed", "for people, and for results", words)
    system: str = option("", "the system prompt; empty: none", checks.text)
    turns: TurnRules = field(default_factory=TurnRules)
    contexts: ContextRules = field(default_factory=ContextRules)
    sizes: SizeRules = field(default_factory=SizeRules)
    judge: JudgeRules = field(default_factory=JudgeRules)
    text: Mapping[str, Any] = field(default_factory=dict)
    image: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        words("name", self.name)
        checks.text("system", self.system)
        self.text_options()
        self.image_options()

    @property
    def draws(self) -> bool:
        """Whether pictures can come of it."""
        return self.turns.next != "never"

    def text_options(self, given: Mapping[str, Any] | None = None) -> TextOptions:
        """The options of its texts, with what a caller gave in place of the style's."""
        return text_defaults({**self.text, **(given or {})})

    def image_options(self, given: Mapping[str, Any] | None = None, edits: bool = True) -> ImageOptions:
        """The options of its pictures, with what a caller gave in place of the style's. edits: of one that is drawn
        behind other pictures; what neither names is as in edit, else as in generate."""
        return image_defaults({**self.image, **(given or {})}, edits)

    def answer_in(self, text: str) -> str:
        """The answer in a text: between the tags that are found first, else all of it, without white space around."""
        for before, behind in self.turns.answer:
            if (found := between(text, before, behind)) is not None:
                return found
        return text.strip()


def between(text: str, before: str, behind: str) -> str | None:
    """What stands behind the last `before`, up to `behind` or the end; None without `before`."""
    if before not in text:
        return None
    rest = text.rpartition(before)[2]
    return (rest.partition(behind)[0] if behind else rest).strip()

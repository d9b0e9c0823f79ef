"""What a request asks for: its keys under our names, and those that nobody here knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from bagel_rt.options import checks
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.names import did_you_mean
from bagel_rt.options.text_options import TextOptions
from bagel_rt.serve import names
from bagel_rt.serve.failures import refused
from bagel_rt.serve.settings import ServeSettings

ARRAYS = ("noise", "mask")  # options that are no JSON values; a mask comes as a picture, by a field of the route
IMAGE_NAMES = tuple(one.name for one in fields(ImageOptions) if one.name not in ARRAYS)
TEXT_NAMES = tuple(one.name for one in fields(TextOptions))


@dataclass(frozen=True)
class Kind:
    """What a route's requests are translated by: rows of the table, and which options of ours they may hold."""

    rows: tuple[names.Row, ...]
    options: tuple[str, ...]


IMAGE = Kind(names.PICTURES, IMAGE_NAMES)
TEXT = Kind(names.TEXTS, TEXT_NAMES)


@dataclass(frozen=True)
class Asked:
    """A request's keys: `own` belong to the route, `options` to the call, `unknown` to neither."""

    own: dict[str, Any]
    options: dict[str, Any]
    unknown: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())

    @property
    def headers(self) -> dict[str, str]:
        """The warning header, where there is something to say."""
        said = ([f"unknown, not used: {', '.join(self.unknown)}"] if self.unknown else []) + list(self.remarks)
        text = "; ".join(said).encode("ascii", "backslashreplace").decode()
        return {"X-Bagel-Warning": "".join(c if c.isprintable() else "?" for c in text)[:500].strip()} if said else {}


def understood(body: Mapping[str, Any], own: Iterable[str], kind: Kind, settings: ServeSettings) -> Asked:
    """Translate a request. Raises ApiError 400 for a value that cannot be, and under `strict` for unknown keys."""
    values = {key: value for key, value in _opened(body).items() if value is not None}
    taken = set(own)
    options = _translated(values, taken, kind)
    rows = {row.name for row in kind.rows}
    unknown = [key for key in values if key not in taken | rows and key not in kind.options and _says(key, values[key])]
    if unknown and settings.strict:
        known = [*taken, *rows, *kind.options]
        raise refused(
            f"unknown key {checks.shown(unknown[0])}{did_you_mean(unknown[0], known)}; this server was started with"
            " --strict",
            unknown[0],
        )
    return Asked({key: values[key] for key in values if key in taken}, options, tuple(key[:60] for key in unknown))


def _translated(values: Mapping[str, Any], taken: set[str], kind: Kind) -> dict[str, Any]:
    """Options of ours: from foreign names, then from our own, which count more."""
    found: dict[str, Any] = {}
    foreign = [row for row in kind.rows if row.name in values and row.name not in taken]
    for row in foreign:
        found.update({k: v for k, v in row.read(values[row.name], values).items() if k in kind.options})
    done = {row.name for row in foreign}
    found.update({key: value for key, value in values.items() if key in kind.options and key not in done | taken})
    return found


def _opened(body: Mapping[str, Any]) -> dict[str, Any]:
    """The keys, with those inside extra_body and the like beside them; what stands flat counts more."""
    inner: dict[str, Any] = {}
    for key in names.OPENED:
        given = body.get(key)
        if given is not None and not isinstance(given, Mapping):
            raise refused(f"{key} is {checks.shown(given)}; an object is expected", key)
        inner.update(given or {})
    return {**inner, **{key: value for key, value in body.items() if key not in names.OPENED}}


def _says(key: str, value: Any) -> bool:
    """Whether an unknown key asks for something that its sender will miss."""
    return key not in names.QUIET and value not in names.NEUTRAL.get(key, ())


def unwrapped(text: str) -> str:
    """A prompt without the wrappers that other servers' clients put around it; inside, nothing is changed."""
    before = None
    while before != text:
        before = text
        text = text.strip() if text.strip().startswith(WRAPPERS) or text.strip().endswith(WRAPPERS) else text
        for wrapper in WRAPPERS:
            text = text.removeprefix(wrapper).removesuffix(wrapper)
    return text


WRAPPERS = ("<|fim_middle|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<img2img>", "<|img2img|>")

"""Options are dataclass fields that carry their check and their description.

Both are written once; help(), the documents and the command line take them from here.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

# called with an option's name and value; returns the value as a plain Python type, or raises InputError
Check = Callable[[str, Any], Any]
Shown = TypeVar("Shown", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """One option of a kind of call, as documents need it."""

    name: str
    type: str  # as in the source: "int | None"
    default: Any
    text: str
    images: bool  # acts on input images alone
    needs: tuple[str, ...]  # acts only where these are set ("name=value": to this value), and scales above 1
    on_command_line: bool


def option(
    default: Any,
    text: str,
    check: Check,
    *,
    needs: tuple[str, ...] = (),
    images: bool = False,
    on_command_line: bool = True,
) -> Any:
    """A field of an options class. text: what it does, for help() and the command line alike; the rest as in Option."""
    facts = {"text": text, "check": check, "images": images, "needs": needs, "on_command_line": on_command_line}
    return field(default=default, metadata=facts)


def check_all(options: Any) -> None:
    """Replace every field of a frozen options object by its checked value."""
    for one in fields(options):
        object.__setattr__(options, one.name, one.metadata["check"](one.name, getattr(options, one.name)))


def options_of(defaults: Any) -> Iterator[Option]:
    """Every option of a kind of call, with its default there: of defaults.GENERATE, EDIT, INTERLEAVE or ANSWER."""
    for one in fields(defaults):
        facts = {key: one.metadata[key] for key in ("text", "images", "needs", "on_command_line")}
        yield Option(one.name, str(one.type), getattr(defaults, one.name), **facts)


def explained(defaults: Any, without: tuple[str, ...] = ()) -> str:
    """A paragraph per option, for docstrings."""
    return "\n".join(_paragraph(one) for one in options_of(defaults) if one.name not in without)


def _paragraph(one: Option) -> str:
    words = f"{one.name} ({one.type}, default {one.default!r}): {one.text}"
    return textwrap.fill(words, 100, initial_indent="    ", subsequent_indent="        ")


def explains(*defaults: Any, without: tuple[str, ...] = ()) -> Callable[[Shown], Shown]:
    """Decorates what takes these options as keywords: help() shows their texts."""

    def add(shown: Shown) -> Shown:
        parts = [f"\n\n{_heading(one, defaults)}\n{explained(one, without)}" for one in defaults]
        shown.__doc__ = inspect.cleandoc(shown.__doc__ or "") + "".join(parts) + "\n"
        return shown

    return add


def _heading(one: Any, among: tuple[Any, ...]) -> str:
    return "Options:" if len(among) == 1 else f"{type(one).__name__}:"

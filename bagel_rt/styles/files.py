"""Styles as TOML: files, and the plain values that an artefact's manifest keeps. A mistake is named with its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from bagel_rt.artefact.manifest import MANIFEST, Manifest
from bagel_rt.errors import ArtefactError, BagelError, InputError
from bagel_rt.files.typed_paths import typed_path
from bagel_rt.options.names import did_you_mean
from bagel_rt.options.toml_tables import read_toml, table, within
from bagel_rt.styles.style import ContextRules, JudgeRules, SizeRules, Style, TurnRules
from bagel_rt.styles.tables import image_defaults, text_defaults

FOLDER = Path(__file__).with_name("builtin")
GENERIC = "generic"
BUILT_IN = (GENERIC, "zebra-cot", "thinkmorph", "mathcanvas", "unicot")
RULES: dict[str, type] = {"turns": TurnRules, "contexts": ContextRules, "sizes": SizeRules, "judge": JudgeRules}
MADE_OF: dict[str, Callable[[Mapping[str, Any]], object]] = {"text": text_defaults, "image": image_defaults}
PLAIN = ("name", "system")
Named = Style | str | Path


def style_named(given: Named) -> Style:
    """A Style as it is, a built-in one by its name, or one read from a TOML file. Raises InputError."""
    if isinstance(given, Style):
        return given
    return read_style(style_path(given))


def style_path(given: str | Path) -> Path:
    """The file of a built-in style, or one that somebody named. Raises InputError where there is none."""
    if isinstance(given, str) and given in BUILT_IN:
        return FOLDER / f"{given}.toml"
    if not isinstance(given, str | Path):
        raise InputError(f"style must be a name, a path or a Style, not {type(given).__name__}")
    path = typed_path(given)
    if not path.is_file():
        hint = did_you_mean(str(given), BUILT_IN) or f"; built in are {', '.join(BUILT_IN)}"
        raise InputError(f"style {str(given)!r} is neither built in nor a file{hint}")
    return path


def style_in(manifest: Manifest) -> Style | None:
    """The style that was stored in an artefact; None where there is none. Raises ArtefactError."""
    values = manifest.raw.get("style")
    return None if values is None else style_of(values, f"{manifest.folder / MANIFEST}, style", ArtefactError)


def read_style(path: Path) -> Style:
    """A style from a TOML file. Raises InputError naming the file, the table and the key."""
    return style_of(read_values(path), str(path))


def read_values(path: Path) -> dict[str, Any]:
    """A TOML file's values, for a manifest: JSON can hold them all. Raises InputError; also for no valid style."""
    values = read_toml(path)
    style_of(values, str(path))
    return values


def style_of(values: Any, where: str, error: type[BagelError] = InputError) -> Style:
    """The style that plain values describe. where: what a message names them by."""
    try:
        return _style(values)
    except InputError as seen:
        raise error(f"{where}: {seen}") from None


def _style(values: Any) -> Style:
    given = table(values, "a style", (*PLAIN, *RULES, *MADE_OF))
    if "name" not in given:
        raise InputError("key 'name' is missing")
    found: dict[str, Any] = {name: given[name] for name in PLAIN if name in given}
    found |= {name: _rules(name, made, given.get(name, {})) for name, made in RULES.items()}
    found |= {name: _options(name, given.get(name, {})) for name in MADE_OF}
    return Style(**found)


def _rules(name: str, made: type, values: Any) -> Any:
    known = tuple(one.name for one in fields(made))
    with within(name):
        return made(**table(values, "it", known))


def _options(name: str, values: Any) -> dict[str, Any]:
    """The options of a table, once it is known that they make options."""
    with within(name):
        given = dict(table(values, "it", None))
        MADE_OF[name](given)
        return given

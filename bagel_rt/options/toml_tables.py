"""TOML files and their tables, where a mistake is named with the file, the table and the key."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bagel_rt.errors import InputError
from bagel_rt.files.text_files import read_text
from bagel_rt.options.checks import shown
from bagel_rt.options.names import did_you_mean


def read_toml(path: Path) -> dict[str, Any]:
    """A file's values. Raises InputError for one that is not TOML."""
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not readable as TOML: {error}") from None


def table(values: Any, what: str, known: Collection[str] | None) -> Mapping[str, Any]:
    """The values as a table of known keys (None: any). Raises InputError with the nearest known key."""
    if not isinstance(values, Mapping):
        raise InputError(f"{what} is {shown(values)}; a table is expected")
    for key in values:
        if known is not None and key not in known:
            raise InputError(f"unknown key {key!r}{did_you_mean(key, known) or '; known: ' + ', '.join(known)}")
    return values


@contextmanager
def within(name: str) -> Iterator[None]:
    """Puts a table's name before the message of an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"[{name}] {error}") from None

"""Settings that a model brings along: what its calls begin with where they name no preset.

A checkpoint that was distilled to few steps, or to no guidance, needs others than BAGEL's. Its artefact keeps them
(export --settings), so that nobody has to know them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bagel_rt.errors import BagelError, InputError
from bagel_rt.options.defaults import ANSWER, EDIT, GENERATE, INTERLEAVE, with_values
from bagel_rt.options.toml_tables import read_toml, table, within

Own = Mapping[str, Mapping[str, Any]]  # option values by kind of call
NOTHING: Own = {}
KINDS: dict[str, Any] = {"generate": GENERATE, "edit": EDIT, "interleave": INTERLEAVE, "ask": ANSWER}
OF_ONE_CALL = ("seed", "vae_seed", "noise", "mask", "adapter", "system")


def read_own_settings(path: Path) -> Own:
    """Settings from a TOML file, for a manifest. Raises InputError naming the file, the table and the key."""
    return own_settings(read_toml(path), str(path))


def own_settings(values: Any, where: str, error: type[BagelError] = InputError) -> Own:
    """Settings that plain values state, checked as those of a call are. where: what a message names them by."""
    try:
        for kind, given in table(values, "it", KINDS).items():
            with within(kind):
                _check(kind, table(given, "it", None))
    except InputError as seen:
        raise error(f"{where}: {seen}") from None
    return values


def _check(kind: str, given: Mapping[str, Any]) -> None:
    for name in given:
        if name in OF_ONE_CALL:
            raise InputError(f"{name} is of a single call; leave it out")
    with_values(KINDS[kind], given)

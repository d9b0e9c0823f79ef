"""Docstrings here explain a parameter in a line that begins with its name; on the site such lines become a list."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXPLAINED = re.compile(r"^(\w+)((?:, \w+)*):(?= )")


class Parameters(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and (names := _names(obj)):
            obj.docstring.value = "\n".join(_lines(obj.docstring.value.splitlines(), names))


def _names(obj: griffe.Object) -> set[str]:
    """Of a function's parameters; of a class what it is made of."""
    if isinstance(obj, griffe.Function):
        return {one.name for one in obj.parameters}
    if not isinstance(obj, griffe.Class):
        return set()
    made = obj.members.get("__init__")
    return set(obj.members) | ({one.name for one in made.parameters} if isinstance(made, griffe.Function) else set())


def _lines(lines: list[str], names: set[str]):
    listed = False
    for line in lines:
        found = EXPLAINED.match(line)
        if found and found[1] in names:
            if not listed:
                yield ""
            listed = True
            line = f"* `{found[1]}{found[2]}`:{line[found.end() :]}"
        elif not line.strip():
            listed = False
        yield line

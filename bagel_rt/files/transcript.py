"""A loop of words and pictures as Markdown that any viewer shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

SPECIAL = re.compile(r"([\\`*_\[\]<>#|~$])")  # what Markdown, or HTML in it, takes for its own


def transcript(prompt: str, given: Sequence[str], turns: Iterable[tuple[str, str]], about: Sequence[str]) -> str:
    """given: file names of the input pictures; turns: ("text", words) or ("picture", file name), in order; about: lines
    that say what made it."""
    parts = [f"# {_plain(' '.join(prompt.split()))}", *(_picture(name, "given") for name in given)]
    parts += [_quoted(what) if kind == "text" else _picture(what, "drawn") for kind, what in turns]
    return "\n\n".join([*parts, "---", *(_plain(line) for line in about)]) + "\n"


def _picture(name: str, what: str) -> str:
    return f"![{what}: {name}]({name})"


def _quoted(text: str) -> str:
    return "\n".join(_lines(text)) or "> (no words)"


def _lines(text: str) -> Iterator[str]:
    for line in text.strip().split("\n") if text.strip() else ():
        yield f"> {_plain(line)}".rstrip() + "  "  # two spaces: the line ends here


def _plain(text: str) -> str:
    return SPECIAL.sub(r"\\\1", text)

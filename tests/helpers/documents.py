"""Code blocks of the documents, in order, each with the reason why it is not run, if there is one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
REASON = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int
    reason: str | None  # why it is not run


def pages() -> list[Path]:
    """README.md and everything in docs/ that is written by hand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        reason = REASON.search(text[: fence.start()])
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(fence["language"], fence["code"], line, reason and reason[1]))
    return found

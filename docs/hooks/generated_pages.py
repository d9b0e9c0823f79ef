"""Parts of pages that are made from the code: commands from their parsers, options from where they are declared.

A paragraph that begins with <!-- made: NAME --> is replaced by what NAME of MADE returns. Pages of the project's own
files are added.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "engines"), str(ROOT / "export")]  # this checkout, whatever is installed
WIDTH = "100"  # columns of the commands' help
PLACE = re.compile(r"<!-- made: (\w+) -->\n.*?(?=\n\n|\Z)", re.DOTALL)
PROJECT = {"architecture": "ARCHITECTURE.md", "contributing": "CONTRIBUTING.md", "changes": "CHANGELOG.md"}


def on_files(files: Files, config: Any) -> Files:
    for page, name in PROJECT.items():
        content = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, f"project/{page}.md", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return PLACE.sub(lambda found: MADE[found[1]](), markdown)


def examples() -> str:
    """What the examples' README says, then every script."""
    folder = ROOT / "examples"
    _, _, text = (folder / "README.md").read_text(encoding="utf-8").partition("\n")
    parts = [re.sub(r"\]\((\w+)\.py\)", r"](#\1)", text)]
    for name in re.findall(r"^\| \[(\w+)\.py\]", text, re.MULTILINE):
        script = (folder / f"{name}.py").read_text(encoding="utf-8").rstrip()
        parts.append(f"## {name}\n\n```python\n{script}\n```\n")
    return "\n".join(parts)


def commands() -> str:
    """What `bagel-rt COMMAND --help` prints, for all commands."""
    from bagel_rt.cli import build_parser

    os.environ["COLUMNS"] = WIDTH
    found = _subcommands(build_parser()).items()
    return "\n".join(f"## {name}\n\n```text\n{command.format_help().rstrip()}\n```\n" for name, command in found)


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def pictures() -> str:
    from bagel_rt.options.defaults import EDIT, GENERATE, INTERLEAVE

    return _table({"generate": GENERATE, "edit": EDIT, "interleave": INTERLEAVE})


def answers() -> str:
    from bagel_rt.options.defaults import ANSWER

    return _table({"ask": ANSWER})


def _table(kinds: dict[str, Any]) -> str:
    """A row for each option; the default of the other kinds where it differs from the first's."""
    from bagel_rt.options.fields import options_of

    (first, *others), rows = kinds, [["option", "type", "default", "what it does"], ["---"] * 4]
    values = {kind: {one.name: one.default for one in options_of(kinds[kind])} for kind in others}
    for one in options_of(kinds[first]):
        default = f"`{one.default!r}`"
        for kind in others:
            if values[kind][one.name] != one.default:
                default += f"<br>{kind}: `{values[kind][one.name]!r}`"
        place = "" if one.on_command_line else " (*Python*)"
        kind = re.sub(r"Literal\[(.*?)\]", r"\1", one.type).replace(" | ", " or ")
        rows.append([f"`{one.name}`", f"`{kind}`", default, one.text + place])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def foreign_names() -> str:
    """The table of names that other servers' clients send."""
    from bagel_rt.serve.names import PICTURES, TEXTS

    found = {row.name: row for row in (*PICTURES, *TEXTS)}
    head = "| name | sent by clients of | what it means here |\n|---|---|---|\n"
    return head + "\n".join(f"| `{row.name}` | {row.clients} | {row.rule} |" for row in found.values())


MADE = {
    "examples": examples,
    "commands": commands,
    "pictures": pictures,
    "answers": answers,
    "foreign_names": foreign_names,
}

"""Pages made from the code: every command from its parser, every option from where it is declared."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "engines"), str(ROOT / "export")]  # this checkout, whatever is installed
WIDTH = "100"  # columns of the commands' help

COMMANDS = """# Commands

Made from the commands' own parsers: `bagel-rt COMMAND --help` prints the same. Exit codes are 0 for done, 1 for failed,
2 for a request that cannot be honoured.
"""
OPTIONS = """# Options

Keyword arguments of the calls and, with dashes in place of underscores, arguments of the commands (not those marked
*Python*). A value of another type or outside its range is refused before any work. The defaults are
the official notebook's; presets change them.

## Pictures

Of `generate`, `edit`, `interleave` and `stream`, and of a session's `generate_image` and `stream_image`, which begin
with the values of `interleave`.

{pictures}

## Answers

Of `ask`, of `interleave` and `stream` with `output="text"`, and of a session's `generate_text` and `stream_text`.

{answers}
"""


PROJECT = {"architecture": "ARCHITECTURE.md", "contributing": "CONTRIBUTING.md", "changes": "CHANGELOG.md"}


def on_files(files: Files, config: Any) -> Files:
    made = {"reference/commands.md": commands(), "reference/options.md": options()}
    made |= {f"project/{page}.md": (ROOT / name).read_text(encoding="utf-8") for page, name in PROJECT.items()}
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def commands() -> str:
    """The page of all commands: what `bagel-rt COMMAND --help` prints."""
    from bagel_rt.cli import build_parser

    os.environ["COLUMNS"] = WIDTH
    found = _subcommands(build_parser()).items()
    helps = [f"## {name}\n\n```text\n{command.format_help().rstrip()}\n```\n" for name, command in found]
    return "\n".join([COMMANDS, *helps])


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def options() -> str:
    """The page of all options."""
    from bagel_rt.options.defaults import ANSWER, EDIT, GENERATE, INTERLEAVE

    pictures = {"generate": GENERATE, "edit": EDIT, "interleave": INTERLEAVE}
    return OPTIONS.format(pictures=_table(pictures), answers=_table({"ask": ANSWER}))


def _table(kinds: dict[str, Any]) -> str:
    """A row for each option; the default of the other kinds where it differs from the first's."""
    from bagel_rt.options.fields import options_of

    (first, *_), rows = kinds, [["option", "type", "default", "what it does"], ["---"] * 4]
    others = [{one.name: one.default for one in options_of(kinds[name])} for name in kinds if name != first]
    for one in options_of(kinds[first]):
        default = f"`{one.default!r}`"
        for name, values in zip(list(kinds)[1:], others, strict=True):
            if values[one.name] != one.default:
                default += f"<br>{name}: `{values[one.name]!r}`"
        place = "" if one.on_command_line else " *Python.*"
        text = one.text[:1].upper() + one.text[1:] + "." + place
        rows.append([f"`{one.name}`", f"`{one.type.replace(' | ', ' or ')}`", default, text])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

"""Pages made from the code: every command from its parser, every option from its dataclass."""

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


def on_files(files: Files, config: Any) -> Files:
    for path, content in (("reference/commands.md", commands()), ("reference/options.md", options())):
        files.append(File.generated(config, path, content=content))
    return files


def commands() -> str:
    """The page of all commands: what `bagel-rt COMMAND --help` prints."""
    from bagel_rt.cli import build_parser

    os.environ["COLUMNS"] = WIDTH
    parser = build_parser()
    parts = [
        "# Commands\n\nMade from the commands' own parsers; `bagel-rt COMMAND --help` prints the same. Exit codes: 0"
        " done, 1 failed, 2 bad input."
    ]
    for name, command in _subcommands(parser).items():
        parts.append(f"## {name}\n\n```text\n{command.format_help().rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def options() -> str:
    """The page of all options."""
    from bagel_rt.options.options import ANSWER, EDIT, GENERATE, INTERLEAVE, ImageOptions, TextOptions

    pictures = {"generate": GENERATE, "edit": EDIT, "interleave and sessions": INTERLEAVE}
    return "\n\n".join(
        [
            "# Options\n\nKeyword arguments of the calls, and with dashes in place of underscores arguments of the"
            " commands. A value of another type or outside its range is refused before any work.",
            f"## Pictures\n\nOf {', '.join(f'`{name}`' for name in pictures)}.",
            _table(ImageOptions, pictures),
            "## Answers\n\nOf `ask`, and of sessions' answers.",
            _table(TextOptions, {"default": ANSWER}),
            "",
        ]
    )


def _table(kind: type, defaults: dict[str, Any]) -> str:
    from dataclasses import fields

    said = _comments(kind)
    rows = [["option", "type", *(f"default: {name}" if len(defaults) > 1 else name for name in defaults), ""]]
    rows.append(["---"] * len(rows[0]))
    for field in fields(kind):
        values = [f"`{getattr(opts, field.name)!r}`" for opts in defaults.values()]
        kinds = str(field.type).replace("|", "\\|")
        rows.append([f"`{field.name}`", f"`{kinds}`".replace("\\|", "or"), *values, said.get(field.name, "")])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _comments(kind: type) -> dict[str, str]:
    """What is written behind each field of a dataclass."""
    import inspect

    found = {}
    for line in inspect.getsource(kind).splitlines():
        name, colon, rest = line.strip().partition(":")
        if colon and name.isidentifier() and "#" in rest:
            found[name] = rest.partition("#")[2].strip()
    return found

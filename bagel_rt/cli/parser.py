"""The parser of every command: options are spelled out, given once, and mistakes are answered in two lines."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, NoReturn

from bagel_rt.options.names import did_you_mean


class Parser(argparse.ArgumentParser):
    """argparse's, but strict: no abbreviations; an option may be given twice only where its values are collected."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        """As argparse's, but nothing unknown is left over. A command's own parser looks at the command's options."""
        if args is not None:
            self._check_options(args if self._subparsers is None else _before_command(args))
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown argument {unknown[0]!r}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong below one line of usage, and exit with 2."""
        needed = " ".join(_needed(action) for action in self._actions if action.required)
        usage = " ".join(word for word in (self.prog, needed, "[options]") if word)
        self.exit(2, f"usage: {usage}   (all of it: {self.prog} --help)\n{self.prog}: error: {message}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse's, naming what was probably meant."""
        if action.choices is None or value in action.choices:
            return
        known = [str(one) for one in action.choices]
        seen = "unknown command" if isinstance(action, argparse._SubParsersAction) else "invalid choice"
        allowed = f" (choose from {', '.join(known)})"
        raise argparse.ArgumentError(action, f"{seen} {value!r}{did_you_mean(str(value), known) or allowed}")

    def _check_options(self, args: Sequence[str]) -> None:
        """Found before argparse complains of what is missing: the mistyped name is usually why it is."""
        seen: set[argparse.Action] = set()
        for name in _names(args):
            action = self._option_string_actions.get(name)
            if action is None:
                self.error(f"unknown option {name}{did_you_mean(name, self._option_string_actions)}")
            if action in seen and not isinstance(action, argparse._AppendAction):
                self.error(f"{' or '.join(action.option_strings)} is given twice; it is taken once")
            seen.add(action)


def _before_command(args: Sequence[str]) -> list[str]:
    return list(takewhile(lambda word: word.startswith("-"), args))


def _names(args: Sequence[str]) -> Iterator[str]:
    """The long options among the words of a command line, as argparse sees them: up to a bare --."""
    for word in args:
        if word == "--":
            return
        name = word.partition("=")[0]
        if name.startswith("--") and " " not in name:
            yield name


def _needed(action: argparse.Action) -> str:
    """An argument that may not be left out, as in a usage line."""
    value = action.metavar or action.dest.upper()
    return " ".join([*action.option_strings[:1], str(value)])

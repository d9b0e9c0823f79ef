# PYTHON_ARGCOMPLETE_OK
"""The command line: `bagel-rt COMMAND`. Exit codes: 0 done, 1 failed, 2 bad input."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from bagel_rt.cli import (
    ask,
    batch,
    bench,
    build,
    chat,
    demo,
    doctor,
    export,
    frames,
    info,
    pictures,
    plan,
    reason,
    serve,
    sign,
    use,
    verify,
    ways,
)
from bagel_rt.cli.notes import notes
from bagel_rt.cli.parser import Parser
from bagel_rt.cli.terminal import escape_what_cannot_be_shown
from bagel_rt.errors import BagelError
from bagel_rt.version import __version__


def build_parser() -> Parser:
    parser = Parser(
        prog="bagel-rt",
        description="Run BAGEL, the unified multimodal model: export a checkpoint once, then draw, edit and ask without"
        " PyTorch.",
    )
    parser.add_argument("--version", action="version", version=f"bagel-rt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (
        export,
        use,
        pictures,
        ask,
        reason,
        chat,
        frames,
        batch,
        plan,
        ways,
        bench,
        info,
        verify,
        sign,
        build,
        doctor,
        demo,
        serve,
    ):
        module.register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    escape_what_cannot_be_shown()
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could come next
        _complete(parser)
    try:
        args = parser.parse_args(argv)
        with notes():
            return args.run(args) or 0
    except BagelError as error:
        print(f"bagel-rt: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("bagel-rt: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the program that read our output has ended (a pipe into `head`)
        sys.stderr.close()
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"bagel-rt: error: {error}", file=sys.stderr)
        return 1


def _complete(parser: Parser) -> None:
    """Answer the shell and end, where argcomplete is installed."""
    try:
        import argcomplete
    except ModuleNotFoundError:
        return
    argcomplete.autocomplete(parser)

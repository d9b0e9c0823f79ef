"""`chat`: a session in a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bagel_rt.cli.arguments import (
    SYSTEM,
    add_model_arguments,
    add_options_to,
    chosen_adapter,
    given_options,
    open_model,
    option_names,
)
from bagel_rt.cli.picture_files import check_free_names, keeps_settings, write_picture
from bagel_rt.cli.progress import show
from bagel_rt.cli.terminal import words
from bagel_rt.errors import BagelError, InputError
from bagel_rt.files.typed_paths import typed_path
from bagel_rt.options import defaults
from bagel_rt.options.defaults import with_values

if TYPE_CHECKING:
    from bagel_rt.api import Bagel
    from bagel_rt.conversation.marks import Mark
    from bagel_rt.conversation.session import Session
    from bagel_rt.results import ImageResult

HELP = """\
text            say it, and read the answer
/image FILE     show a picture
/draw [TEXT]    draw a picture of what was said so far, after TEXT; it is written to the next free bagel-N.png
/undo           take the last of these back
/save FILE      write the last picture to FILE
/help, /quit    this text; the end (so does Ctrl-D; Ctrl-C stops what is being written or drawn)"""
DRAWING = ("height", "width", "cfg_text_scale", "cfg_img_scale", "timestep_shift", "num_timesteps", "step_cache")
WRITING = [
    name for name in option_names(defaults.ANSWER) if name not in ("think", "system", "adapter", "seed")
]  # those are the session's


def register(commands) -> None:
    chat = commands.add_parser(
        "chat",
        help="talk, show pictures, have them drawn and changed",
        description="Talk with the model in a terminal; what was said, shown and drawn stays.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chat.add_argument("--think", choices=["image", "text"], help="plan pictures, or reason in answers")
    chat.add_argument("--seed", type=int, help="any integer (default: a new one)")
    chat.add_argument("--system", **SYSTEM, help="system prompt: a text that stands at the beginning")
    add_model_arguments(chat)
    add_options_to(chat.add_argument_group("answers"), defaults.ANSWER, [*WRITING, "adapter"])
    add_options_to(chat.add_argument_group("pictures"), defaults.INTERLEAVE, DRAWING)
    chat.set_defaults(run=run_chat)


def run_chat(args: argparse.Namespace) -> None:
    writing, drawing = given_options(args, WRITING), given_options(args, DRAWING)
    with_values(defaults.ANSWER, writing)
    with_values(defaults.INTERLEAVE, drawing)
    adapter = chosen_adapter(args, given_options(args, ["adapter"]))
    with open_model(args) as bagel, bagel.session(args.seed, args.think, system=args.system, **adapter) as session:
        chat = Chat(bagel, session, writing, drawing)
        print("bagel-rt: /help lists the commands", file=sys.stderr)
        for line in _lines():
            if line in ("/quit", "/exit"):
                return
            chat.take(line)


def _lines() -> Iterator[str]:
    """What is typed, or piped in; ends with the input, or with Ctrl-C at the prompt."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line


class Chat:
    """A session, and its marks before each thing that /undo can take back."""

    def __init__(self, bagel: Bagel, session: Session, writing: dict[str, Any], drawing: dict[str, Any]):
        self._session = session
        self._vae = bagel.manifest.task == "full"
        self._writing, self._drawing = writing, drawing
        self._before: list[tuple[Mark, ImageResult | None]] = []
        self._picture: ImageResult | None = None

    def take(self, line: str) -> None:
        """Do what a line asks for. A mistake, or Ctrl-C, leaves the conversation as it was."""
        command, _, rest = line.partition(" ")
        if not command.startswith("/"):
            command, rest = "", line
        before = self._session.mark()
        try:
            self._command(command)(rest.strip())
        except BrokenPipeError:  # the program that read our output has ended
            raise
        except (BagelError, OSError) as error:
            self._session.rollback(before)
            print(f"bagel-rt: error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            self._session.rollback(before)
            print("\nbagel-rt: stopped; nothing of it stays", file=sys.stderr)

    def _command(self, name: str):
        commands = {"": self._say, "/image": self._show, "/draw": self._draw, "/undo": self._undo, "/save": self._save}
        commands["/help"] = lambda _: print(HELP)
        if name not in commands:
            raise InputError(f"{name}: no such command; known: {', '.join(sorted(commands)[1:])}, /quit")
        return commands[name]

    def _say(self, text: str) -> None:
        before = self._session.mark()
        self._session.add_text(words(text, sys.stdin.encoding))
        show(self._session.stream_text(**self._writing))
        self._before.append((before, self._picture))

    def _show(self, file: str) -> None:
        if not file:
            raise InputError("/image needs a file name: /image photo.png")
        before = self._session.mark()
        self._session.add_image(typed_path(file), vae=self._vae)
        self._before.append((before, self._picture))

    def _draw(self, text: str) -> None:
        check_free_names()
        before = self._session.mark()
        if text:
            self._session.add_text(words(text, sys.stdin.encoding))
        result = show(self._session.stream_image(**self._drawing))
        _write(result)
        self._before.append((before, self._picture))
        self._picture = result

    def _undo(self, _: str) -> None:
        if not self._before:
            raise InputError("nothing was said that could be taken back")
        mark, self._picture = self._before.pop()
        self._session.rollback(mark)

    def _save(self, file: str) -> None:
        if not file:
            raise InputError("/save needs a file name: /save cube.png")
        if self._picture is None:
            raise InputError("no picture was drawn yet: /draw one first")
        _write(self._picture, typed_path(file))


def _write(picture: ImageResult, target: Path | None = None) -> None:
    path = write_picture(picture, target, target is None or keeps_settings(target))
    width, height = picture.image.size
    print(f"{path}: {width}x{height}")

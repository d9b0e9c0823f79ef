"""`reason`: think in words and pictures, and leave both in a folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bagel_rt.cli.arguments import (
    SYSTEM,
    add_model_arguments,
    add_options_to,
    chosen_adapter,
    given_options,
    open_model,
    text_argument,
)
from bagel_rt.cli.progress import show
from bagel_rt.conversation.reason import MAX_PICTURES
from bagel_rt.errors import InputError
from bagel_rt.events import ImageReady
from bagel_rt.files.output_files import write_bytes
from bagel_rt.files.output_folder import output_folder
from bagel_rt.files.transcript import transcript
from bagel_rt.files.typed_paths import typed_path
from bagel_rt.inputs.pictures import open_images
from bagel_rt.options import checks, defaults
from bagel_rt.results import ImageResult, ReasonResult
from bagel_rt.styles.files import BUILT_IN, style_named
from bagel_rt.styles.tables import IMAGE, TEXT, split

TRANSCRIPT, RECORD = "transcript.md", "result.json"
ONCE = ("max_tokens",)  # a parameter of the call itself
OF_TEXTS = [name for name in TEXT if name not in ONCE]


def register(commands) -> None:
    reason = commands.add_parser(
        "reason",
        help="think in words and pictures",
        description="Think in words and pictures until there is an answer. DIR gets the pictures, picture-1.png, ...,"
        f" {TRANSCRIPT}, which shows them, and {RECORD}.",
    )
    reason.add_argument("--prompt", type=text_argument, required=True, metavar="TEXT", help="the question")
    reason.add_argument(
        "--image", type=Path, action="append", default=[], metavar="FILE", help="a picture (repeatable)"
    )
    reason.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    reason.add_argument(
        "--style", metavar="NAME", help=f"{', '.join(BUILT_IN)}, or a TOML file (default: the artefact's, else generic)"
    )
    reason.add_argument(
        "--max-pictures", type=int, default=MAX_PICTURES, metavar="N", help=f"at most (default: {MAX_PICTURES})"
    )
    reason.add_argument("--max-tokens", type=int, metavar="N", help="of one text (default: the style's)")
    reason.add_argument("--system", **SYSTEM, help="a system prompt in place of the style's")
    reason.add_argument("--seed", type=int, metavar="N", help="of the first turn (default: a new one)")
    add_model_arguments(reason)
    group = reason.add_argument_group("options, in place of the style's")
    add_options_to(group, defaults.ANSWER, (*OF_TEXTS, "adapter"))
    add_options_to(group, defaults.EDIT, [name for name in IMAGE if name != "vae_sample"])
    reason.set_defaults(run=run_reason)


def run_reason(args: argparse.Namespace) -> None:
    options = given_options(args, (*OF_TEXTS, *IMAGE))
    # what is wrong with the arguments is found before a model is loaded
    style = None if args.style is None else style_named(args.style)
    checks.whole("--max-pictures", args.max_pictures, least=0)
    split(options)
    images, out = open_images(args.image), typed_path(args.out)
    _check_new(out)
    with output_folder(out), open_model(args) as bagel:
        events = bagel.stream_reason(
            args.prompt, images, style=style, max_pictures=args.max_pictures, max_tokens=args.max_tokens,
            seed=args.seed, system=args.system, **chosen_adapter(args, given_options(args, ["adapter"])), **options,
        )  # fmt: skip
        result = show(events, lambda ready: _write_picture(out, ready))
        given = [f"given-{i}.png" for i in range(1, len(images) + 1)]
        for name, image in zip(given, images, strict=True):
            image.save(out / name)
        write_result(out, result, given)
    print(f"{out / TRANSCRIPT}: {len(result.texts)} texts, {len(result.pictures)} pictures, {result.stopped}")
    print(f"answer: {result.answer}")


def write_result(out: Path, result: ReasonResult, given: list[str]) -> None:
    """The transcript and the record of a loop whose pictures are in the folder already."""
    names = [picture_name(i) for i in range(1, len(result.pictures) + 1)]
    left = iter(names)
    turns = [("picture", next(left)) if isinstance(part, ImageResult) else ("text", part.text) for part in result]
    about = (
        f"Style {result.style}, seed {result.seed}, stopped: {result.stopped}.",
        f"{result.model} on {result.engine}.",
    )
    write_bytes(out / TRANSCRIPT, transcript(result.prompt, given, turns, about).encode())
    record = json.dumps({**result.record(names), "given": given}, indent=1, ensure_ascii=False) + "\n"
    write_bytes(out / RECORD, record.encode(errors="backslashreplace"))


def picture_name(number: int) -> str:
    return f"picture-{number}.png"


def _write_picture(out: Path, ready: ImageReady) -> None:
    path = out / picture_name(ready.done)
    ready.result.save(path)
    print(f"{path}: seed {ready.result.seed}")


def _check_new(out: Path) -> None:
    """A folder with another loop's results stays as it is."""
    if (out / TRANSCRIPT).exists():
        raise InputError(f"{out}: holds a {TRANSCRIPT} already; name another folder")

"""`generate` and `edit`: draw pictures from a prompt, or from an image and a prompt."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bagel_rt.cli.arguments import (
    add_model_arguments,
    add_options_to,
    add_preset_argument,
    check_size,
    chosen_adapter,
    given_options,
    open_model,
    option_names,
    text_argument,
)
from bagel_rt.cli.picture_files import check_free_names, keeps_settings, write_picture
from bagel_rt.cli.progress import show
from bagel_rt.errors import InputError
from bagel_rt.files.typed_paths import typed_path
from bagel_rt.inputs.masks import extended, open_mask
from bagel_rt.inputs.pictures import open_images
from bagel_rt.options import presets
from bagel_rt.options.defaults import with_values
from bagel_rt.options.seeds import seeds_of
from bagel_rt.results import ImageResult, check_image_target


def register(commands) -> None:
    generate = commands.add_parser("generate", help="draw a picture from text", description="Draw a picture from text.")
    _add_arguments(generate, presets.GENERATE)
    generate.set_defaults(run=run_generate)
    edit = commands.add_parser("edit", help="change a picture", description="Draw a changed version of a picture.")
    edit.add_argument(
        "--image", type=Path, action="append", required=True, metavar="FILE", help="the picture to change (repeatable)"
    )
    edit.add_argument(
        "--mask", type=Path, metavar="FILE",
        help="a picture of the image's size: white, or else transparent, is drawn anew, the rest stays as it is",
    )  # fmt: skip
    edit.add_argument(
        "--extend", type=int, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="draw so many pixels more around the last picture, which stays as it is",
    )  # fmt: skip
    _add_arguments(edit, presets.EDIT)
    edit.set_defaults(run=run_edit)


def run_generate(args: argparse.Namespace) -> None:
    _run(args, presets.GENERATE, [args.prompt], {})


def run_edit(args: argparse.Namespace) -> None:
    images, mask = open_images(args.image), None
    if args.extend is not None:
        if args.mask is not None:
            raise InputError("--extend makes a mask of its own; leave --mask out")
        images[-1], mask = extended(images[-1], *args.extend)
    elif args.mask is not None:
        mask = open_mask(args.mask)
    _run(args, presets.EDIT, [*images, args.prompt], {} if mask is None else {"mask": mask})


def _run(args: argparse.Namespace, task: str, items: list, more: dict[str, Any]) -> None:
    opts = chosen_adapter(args, {**given_options(args, option_names(presets.defaults(task, None))), **more})
    # what is wrong with the arguments is found before a model is loaded
    asked = with_values(presets.defaults(task, args.preset), opts)
    seeds_of(opts.get("seed"), args.images)
    check_size(args, asked)
    targets = _targets(args.out, args.images)
    metadata = args.metadata and (args.out is None or keeps_settings(args.out))
    with open_model(args) as bagel:
        events = bagel.stream(items, preset=args.preset or presets.MODEL, images=args.images, **opts)
        show(events, lambda ready: _finish(ready.result, targets[ready.done - 1], metadata))


def _add_arguments(parser: argparse.ArgumentParser, task: str) -> None:
    defaults = presets.defaults(task, None)
    parser.add_argument("--prompt", type=text_argument, required=True, metavar="TEXT", help="what to draw")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the picture to write (default: the next bagel-N.png)")
    parser.add_argument("--images", type=int, metavar="N",
                        help="so many pictures, of the seed and those after it: NAME-1.png, ...")  # fmt: skip
    parser.add_argument("--no-metadata", dest="metadata", action="store_false", help="store no settings in the file")
    add_model_arguments(parser)
    add_preset_argument(parser, task)
    names = option_names(defaults, images=task == presets.EDIT)
    add_options_to(parser.add_argument_group("options"), defaults, names)


def _targets(out: Path | None, images: int | None) -> list[Path | None]:
    """A file per picture: as named, numbered where there are several; None: the next name that is free."""
    if out is None:
        check_free_names()
        return [None] * (images or 1)
    out = typed_path(out)
    several = range(1, images + 1) if images is not None else ()
    named = [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in several] or [out]
    for path in named:
        check_image_target(path)
    return [*named]


def _finish(result: ImageResult, target: Path | None, metadata: bool) -> None:
    out = write_picture(result, target, metadata)
    width, height = result.image.size
    print(f"{out}: {width}x{height}, seed {result.seed}")

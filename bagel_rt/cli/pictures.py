"""`generate` and `edit`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bagel_rt import options
from bagel_rt.cli.arguments import (
    IMAGE_FLAGS,
    IMAGE_HELP,
    add_model_arguments,
    add_option_arguments,
    given_options,
    open_model,
)
from bagel_rt.cli.progress import Bars
from bagel_rt.options import ImageOptions, with_values
from bagel_rt.results import ImageResult, check_image_target


def register(commands) -> None:
    generate = commands.add_parser("generate", help="draw a picture from text", description="Draw a picture from text.")
    _add_arguments(generate, options.GENERATE)
    generate.set_defaults(run=run_generate)
    edit = commands.add_parser("edit", help="change a picture", description="Draw a changed version of a picture.")
    edit.add_argument("--image", type=Path, required=True, metavar="FILE", help="the picture to change")
    _add_arguments(edit, options.EDIT)
    edit.add_argument("--no-vae-sample", dest="vae_sample", action="store_false", default=argparse.SUPPRESS,
                      help="encode the input without noise")  # fmt: skip
    edit.set_defaults(run=run_edit)


def run_generate(args: argparse.Namespace) -> None:
    opts, out = _options(args), _target(args)
    with_values(options.GENERATE, opts)  # a bad option is found before a model is loaded
    with open_model(args) as bagel, Bars() as bars:
        result = bagel.generate(args.prompt, on_progress=bars, **opts)
    _finish(result, out, args.metadata)


def run_edit(args: argparse.Namespace) -> None:
    opts, out = _options(args), _target(args)
    with_values(options.EDIT, opts)
    with open_model(args) as bagel, Bars() as bars:
        result = bagel.edit(args.image, args.prompt, on_progress=bars, **opts)
    _finish(result, out, args.metadata)


def _add_arguments(parser: argparse.ArgumentParser, defaults: ImageOptions) -> None:
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what to draw")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the picture to write (default: the next bagel-N.png)")
    parser.add_argument("--no-metadata", dest="metadata", action="store_false", help="store no settings in the PNG")
    add_model_arguments(parser)
    add_option_arguments(parser, defaults, IMAGE_HELP, IMAGE_FLAGS)
    low, high = defaults.cfg_interval
    parser.add_argument("--cfg-interval", type=float, nargs=2, metavar=("LO", "HI"), default=argparse.SUPPRESS,
                        help=f"guidance acts for LO < t <= HI (default: {low:g} {high:g})")  # fmt: skip


def _options(args: argparse.Namespace) -> dict:
    return given_options(args, *IMAGE_HELP, *IMAGE_FLAGS, "cfg_interval", "vae_sample")


def _target(args: argparse.Namespace) -> Path:
    if args.out is None:
        numbers = iter(range(1, 1_000_000))
        return next(path for n in numbers if not (path := Path(f"bagel-{n}.png")).exists())
    check_image_target(args.out)
    return args.out


def _finish(result: ImageResult, out: Path, metadata: bool) -> None:
    result.save(out, metadata=metadata)
    if result.text is not None:
        print(result.text)
    width, height = result.image.size
    print(f"{out}: {width}x{height}, seed {result.seed}")

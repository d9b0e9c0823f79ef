"""`frames`: one prompt edits an image again and again, each result being the next input; PNGs and an animation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

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
from bagel_rt.cli.progress import show
from bagel_rt.errors import InputError
from bagel_rt.files import picture_records
from bagel_rt.files.output_files import write_by
from bagel_rt.files.output_folder import output_folder
from bagel_rt.files.typed_paths import typed_path
from bagel_rt.inputs.pictures import open_image
from bagel_rt.options import checks, defaults, presets
from bagel_rt.options.defaults import with_values
from bagel_rt.options.seeds import draw_seed

if TYPE_CHECKING:
    from PIL.Image import Image

    from bagel_rt.results import ImageResult

ANIMATION = "frames.webp"
OPTIONS = option_names(defaults.EDIT)


def register(commands) -> None:
    frames = commands.add_parser(
        "frames",
        help="change a picture again and again: numbered frames and an animation",
        description="Apply the same words to a picture, then to the result, and so on: navigation, rotation, a story."
        " Writes frame-001.png, ... and an animated frames.webp that begins with the given picture.",
    )
    frames.add_argument("--image", type=Path, required=True, metavar="FILE", help="the picture to begin with")
    frames.add_argument(
        "--prompt", type=text_argument, required=True, metavar="TEXT", help="how each frame differs from the one before"
    )
    frames.add_argument("--count", type=int, required=True, metavar="N", help="frames to draw")
    frames.add_argument("--out", type=Path, default=Path("bagel-frames"), metavar="DIR", help="default: bagel-frames")
    frames.add_argument("--duration", type=int, default=500, metavar="MS", help="of a frame in the animation (500)")
    add_model_arguments(frames)
    add_preset_argument(frames, presets.EDIT)
    add_options_to(frames.add_argument_group("options"), defaults.EDIT, OPTIONS)
    frames.set_defaults(run=run_frames)


def run_frames(args: argparse.Namespace) -> None:
    opts = chosen_adapter(args, given_options(args, OPTIONS))
    every_option = with_values(presets.defaults(presets.EDIT, args.preset), opts)
    checks.whole("count", args.count, least=1)
    checks.whole("duration", args.duration, least=1)
    check_size(args, every_option)
    first = open_image(args.image)
    _check_webp()
    seed, out = draw_seed(every_option.seed), typed_path(args.out)
    with output_folder(out):
        _check_no_frames(out)
        with open_model(args) as bagel:
            results = []
            for number in range(1, args.count + 1):
                asked = {**opts, "seed": seed + number - 1}
                print(f"frame {number} of {args.count}", file=sys.stderr)
                before = results[-1].image if results else first
                result = show(bagel.stream([before, args.prompt], preset=args.preset or presets.MODEL, **asked))
                result.save(out / f"frame-{number:03}.png")
                results.append(result)
        _animate(first, results, out / ANIMATION, args.duration)
    print(f"{out}: {args.count} frames and {ANIMATION}, seeds {seed} to {seed + args.count - 1}")


def _check_webp() -> None:
    from PIL import features

    if not features.check("webp"):
        raise InputError("this Pillow writes no WebP; install one that does: pip install --upgrade pillow")


def _check_no_frames(folder: Path) -> None:
    if any(folder.glob("frame*")):
        raise InputError(f"{folder}: holds frames already; choose another --out")


def _animate(first: Image, results: list[ImageResult], path: Path, duration: int) -> None:
    """All pictures in the size of the last, repeated for ever, with the first frame's settings and their number."""
    pictures = [first, *(result.image for result in results)]
    size = pictures[-1].size
    frames = [picture if picture.size == size else picture.resize(size) for picture in pictures]
    settings = picture_records.arguments(path, {**results[0].metadata(), "frames": len(results)})
    how = {"duration": duration, "loop": 0, "quality": 90, **settings}
    write_by(path, lambda partial: frames[0].save(partial, save_all=True, append_images=frames[1:], **how))

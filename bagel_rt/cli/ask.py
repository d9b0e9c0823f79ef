"""`ask`: answer a question, about images or without any."""

from __future__ import annotations

import argparse
from pathlib import Path

from bagel_rt.cli.arguments import (
    add_model_arguments,
    add_options_to,
    add_preset_argument,
    chosen_adapter,
    given_options,
    open_model,
    option_names,
    text_argument,
)
from bagel_rt.cli.progress import show
from bagel_rt.inputs.pictures import open_images
from bagel_rt.options import defaults, presets
from bagel_rt.options.defaults import with_values

OPTIONS = option_names(defaults.ANSWER)


def register(commands) -> None:
    ask = commands.add_parser("ask", help="ask about pictures", description="Answer a question, about pictures or not.")
    ask.add_argument("--prompt", type=text_argument, required=True, metavar="TEXT", help="the question")
    ask.add_argument("--image", type=Path, action="append", default=[], metavar="FILE", help="a picture (repeatable)")
    add_model_arguments(ask)
    add_preset_argument(ask, presets.ASK)
    add_options_to(ask.add_argument_group("options"), defaults.ANSWER, OPTIONS)
    ask.set_defaults(run=run_ask)


def run_ask(args: argparse.Namespace) -> None:
    opts = chosen_adapter(args, given_options(args, OPTIONS))
    # what is wrong with the arguments is found before a model is loaded
    with_values(presets.defaults(presets.ASK, args.preset), opts)
    images = open_images(args.image)
    with open_model(args) as bagel:
        show(bagel.stream([*images, args.prompt], output="text", preset=args.preset, **opts))

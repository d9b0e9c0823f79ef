"""`use`: choose the model that commands use."""

from __future__ import annotations

import argparse

from bagel_rt.artefact.folders import BUNDLED, use_model


def register(commands) -> None:
    use = commands.add_parser(
        "use",
        help="choose the model that commands use when none is named",
        description="Choose the model that commands use without --model and BAGEL_RT_MODEL. `bagel-rt info` says which"
        " one it is.",
    )
    use.add_argument("model", metavar="DIR", help=f"artefact folder, or {BUNDLED.name}, the bundled model")
    use.set_defaults(run=run_use)


def run_use(args: argparse.Namespace) -> None:
    print(f"commands without --model now use {use_model(args.model)}")

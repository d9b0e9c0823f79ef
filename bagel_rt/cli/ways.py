"""`ways`: which engine and arithmetic are the fastest for an artefact here, and which are used."""

from __future__ import annotations

import argparse

from bagel_rt.artefact.folders import find_model
from bagel_rt.artefact.manifest import Manifest, read_manifest
from bagel_rt.cli.terminal import print_json
from bagel_rt.errors import InputError


def register(commands) -> None:
    ways = commands.add_parser(
        "ways",
        help="measure which engine and arithmetic are the fastest here",
        description="Time one layer of an artefact in every way this machine has, and keep the fastest that is within"
        " 3 % of float32: commands use it where neither --backend nor --arithmetic is given. Without an option: what"
        " is kept, or what is measured now.",
    )
    ways.add_argument("--model", metavar="DIR", help="artefact (default: as for generate)")
    what = ways.add_mutually_exclusive_group()
    what.add_argument("--measure", action="store_true", help="measure again")
    what.add_argument("--pin", metavar="WAY", help="use this way from now on: ENGINE/ARITHMETIC, as openvino/stated")
    what.add_argument("--clear", action="store_true", help="forget what was measured and pinned")
    ways.add_argument("--json", action="store_true", help="the same as JSON")
    ways.set_defaults(run=run_ways)


def run_ways(args: argparse.Namespace) -> None:
    from bagel_rt.engine_errors import named_failures
    from bagel_rt.estimate import choice
    from bagel_rt.estimate.ways import Way

    manifest = read_manifest(find_model(args.model).folder)
    if args.clear:
        print(f"{choice.clear(manifest)} choices for {manifest.folder} are forgotten")
        return
    _check(manifest)
    with named_failures():
        if args.pin:
            choice.pin(manifest, Way.parse(args.pin))
        found = choice.measure(manifest) if args.measure else choice.chosen(manifest)
    if args.json:
        print_json({"way": str(found.way), "pinned": found.pinned, "measured": found.measured})
    else:
        print(f"{manifest.folder}: {found}")


def _check(manifest: Manifest) -> None:
    from bagel_rt.artefact.contract import LAYER
    from bagel_rt.estimate.ways import quantised

    if not quantised(manifest):
        raise InputError(f"{manifest.folder} is {manifest.precision}: it is computed as it states, in one way")
    if not manifest.has(LAYER):
        raise InputError(f"{manifest.folder} has no graph of a single layer to measure with; export it again")

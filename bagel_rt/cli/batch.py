"""`batch`: do every request of a JSONL file, going on where an earlier run stopped."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bagel_rt.cli.arguments import add_model_arguments, open_model, path_argument
from bagel_rt.cli.batch_results import RESULTS, Batch
from bagel_rt.cli.jsonl_requests import Request, read_requests
from bagel_rt.cli.progress import Bars
from bagel_rt.errors import BagelError
from bagel_rt.events import Progress
from bagel_rt.files.output_folder import output_folder
from bagel_rt.options.presets import PRESETS

if TYPE_CHECKING:
    from bagel_rt.api import Bagel


def register(commands) -> None:
    batch = commands.add_parser(
        "batch",
        help="many prompts, edits and questions from a file",
        description='Do every line of a JSONL file: {"prompt": ..., "image": ..., "id": ..., and any option, such as'
        ' "seed": 1}. "task" is generate, edit or ask; left out: edit where there is an image, else generate. Pictures'
        " and results.jsonl go to a folder; the same command goes on where it was stopped.",
    )
    batch.add_argument(
        "file", type=path_argument, metavar="FILE.jsonl", help="one request per line; paths relative to it"
    )
    batch.add_argument("--out", type=path_argument, required=True, metavar="DIR", help="folder for the results")
    batch.add_argument("--preset", metavar="NAME", help=f"settings of an official script: {', '.join(PRESETS)}")
    add_model_arguments(batch)
    batch.set_defaults(run=run_batch)


def run_batch(args: argparse.Namespace) -> None:
    requests = read_requests(args.file, args.preset)
    with output_folder(args.out), open_model(args) as bagel:
        _run(args.out, requests, bagel)


def _run(out: Path, requests: list[Request], bagel: Bagel) -> None:
    batch = Batch(out, requests, bagel.manifest.fingerprint)
    with Bars() as bars:
        before, failed = len(requests) - len(batch.waiting), 0
        for done, record in enumerate(batch.run(bagel), before + 1):
            failed += "error" in record
            bars(Progress("requests", done, len(requests)))
    print(f"{out / RESULTS}: {len(requests) - failed} of {len(requests)} done, {before} of them before")
    if failed:
        raise BagelError(f"{failed} requests failed; {out / RESULTS} says why, the same command tries them again")

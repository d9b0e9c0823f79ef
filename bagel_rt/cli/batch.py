"""`batch`: do every request of a JSONL file, going on where an earlier run stopped."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bagel_rt.artefact.folders import find_model
from bagel_rt.artefact.manifest import Manifest, read_manifest
from bagel_rt.cli.arguments import add_model_arguments, open_model, path_argument
from bagel_rt.cli.batch_results import RESULTS, Batch
from bagel_rt.cli.jsonl_requests import Request, read_requests
from bagel_rt.cli.progress import Bars
from bagel_rt.cli.ray_batch import answers_of, cluster
from bagel_rt.errors import BagelError
from bagel_rt.events import Progress
from bagel_rt.files.output_folder import output_folder
from bagel_rt.inputs.brought_settings import settings_in
from bagel_rt.options import checks
from bagel_rt.options.presets import PRESETS


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
    group = batch.add_argument_group("a cluster")
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="of a Ray cluster that does the requests: HOST:PORT, or auto: the one here",
    )
    group.add_argument(
        "--ray-workers",
        type=int,
        metavar="N",
        help="models opened there (default: one for each GPU, or machine)",
    )
    add_model_arguments(batch)
    batch.set_defaults(run=run_batch)


def run_batch(args: argparse.Namespace) -> None:
    manifest = read_manifest(find_model(args.model).folder)
    requests = read_requests(args.file, args.preset, settings_in(manifest))
    with output_folder(args.out):
        _run_on_cluster(args, requests, manifest) if args.ray else _run_here(args, requests)


def _run_here(args: argparse.Namespace, requests: list[Request]) -> None:
    with open_model(args) as bagel:
        batch = Batch(args.out, requests, bagel.manifest.fingerprint)
        _recorded(batch, batch.run(bagel), args.out, len(requests))


def _run_on_cluster(args: argparse.Namespace, requests: list[Request], manifest: Manifest) -> None:
    checks.whole("ray-workers", args.ray_workers, least=1, optional=True)
    args.model, fingerprint = str(manifest.folder.resolve()), manifest.fingerprint
    batch = Batch(args.out, requests, fingerprint)
    with cluster(args.ray) as ray:
        sent = argparse.Namespace(**{name: value for name, value in vars(args).items() if name != "run"})
        _recorded(batch, batch.record(answers_of(ray, sent, fingerprint, batch.waiting)), args.out, len(requests))


def _recorded(batch: Batch, records: Iterator[dict[str, Any]], out: Path, count: int) -> None:
    with Bars() as bars:
        before, failed = count - len(batch.waiting), 0
        for done, record in enumerate(records, before + 1):
            failed += "error" in record
            bars(Progress("requests", done, count))
    print(f"{out / RESULTS}: {count - failed} of {count} done, {before} of them before")
    if failed:
        raise BagelError(f"{failed} requests failed; {out / RESULTS} says why, the same command tries them again")

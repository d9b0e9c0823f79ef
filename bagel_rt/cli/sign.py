"""`sign`: a signature beside an artefact, and the keys for it."""

from __future__ import annotations

import argparse
from pathlib import Path

from bagel_rt.artefact.folders import find_model
from bagel_rt.artefact.manifest import Manifest, read_manifest
from bagel_rt.cli.arguments import path_argument
from bagel_rt.cli.progress import Bars
from bagel_rt.events import Progress


def register(commands) -> None:
    sign = commands.add_parser(
        "sign",
        help="sign an artefact, so that others can tell that it is yours",
        description="Compare every file with its stored hash, then sign the manifest that has these hashes: the"
        " signature is bagel_rt.sig in the artefact's folder. --new-key NAME makes a pair first: NAME.pem, which is to"
        " be kept secret, and NAME.pub.pem, which others give to `bagel-rt verify --key`. Needs the extra sign.",
    )
    sign.add_argument("--model", metavar="DIR", help="artefact (default: BAGEL_RT_MODEL, or what `bagel-rt use` chose)")
    keys = sign.add_mutually_exclusive_group(required=True)
    keys.add_argument("--key", type=path_argument, metavar="FILE", help="private Ed25519 key in PEM")
    keys.add_argument("--new-key", type=path_argument, metavar="NAME", help="make a pair of keys, and sign nothing")
    sign.set_defaults(run=run_sign)


def run_sign(args: argparse.Namespace) -> None:
    from bagel_rt.artefact import signatures

    if args.new_key is not None:
        private, public = (Path(f"{args.new_key}{ending}") for ending in (".pem", ".pub.pem"))
        signatures.new_keys(private, public)
        print(f"{private}: keep it secret\n{public}: give it to those who check")
        return
    manifest = read_manifest(find_model(args.model).folder)
    compare_files(manifest)
    print(f"{signatures.sign(manifest, args.key)}: signature of {manifest.name} {manifest.fingerprint}")


def compare_files(manifest: Manifest) -> None:
    """Compare every file with its hash, with a bar of progress for each."""
    from bagel_rt.artefact.hashes import check_hashes

    with Bars(bytes_in=tuple(manifest.files)) as bars:
        for step in check_hashes(manifest):
            bars(Progress(*step))

"""`export`: the one command that needs PyTorch, found in the package bagel_export."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bagel_rt.cli.progress import Bars
from bagel_rt.contract import TASK_GRAPHS
from bagel_rt.errors import InputError
from bagel_rt.locate import default_export_folder, remember_export


def register(commands) -> None:
    export = commands.add_parser(
        "export",
        help="turn a checkpoint into an artefact",
        description="Turn a BAGEL checkpoint folder into an artefact folder that runs without PyTorch.",
    )
    export.add_argument("--ckpt", type=Path, required=True, metavar="PATH", help="folder with ema.safetensors")
    export.add_argument("--out", type=Path, metavar="DIR", help="artefact folder (default: in the user's data folder)")
    export.add_argument("--task", choices=list(TASK_GRAPHS), default="full", help="understand: leave drawing out")
    export.add_argument(
        "--precision",
        choices=["fp32", "bf16", "fp16", "int8"],
        default="fp32",
        help="bf16, fp16: weights and arithmetic in 16 bits; int8: weights in 8 bits, arithmetic in float32"
        " (default: fp32)",
    )
    export.add_argument("--overwrite", action="store_true", help="replace the artefact that is there")
    export.add_argument("--no-verify", dest="verify", action="store_false", help="do not compare with the reference")
    export.set_defaults(run=run_export)


def require_exporter() -> None:
    """Raise InputError naming the extra to install when the exporter's packages are missing."""
    try:
        import bagel_export.artefact  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"export needs {error.name}; run: pip install 'bagel-rt[export]'") from None


def run_export(args: argparse.Namespace) -> None:
    require_exporter()
    from bagel_export.artefact import export
    from bagel_export.checkpoint import open_checkpoint

    out = args.out or default_export_folder(args.ckpt)
    if args.out is None:
        open_checkpoint(args.ckpt, args.task)  # a bad checkpoint leaves not even the folder above the artefact
        out.parent.mkdir(parents=True, exist_ok=True)
    with Bars(bytes_in=("weights", "hashing")) as bars:
        for event in export(args.ckpt, out, args.task, args.overwrite, args.verify, args.precision):
            bars(event)
    remember_export(out)
    print(out)
    print(f"bagel-rt: commands without --model now use {out}", file=sys.stderr)

"""`export`: the one command that needs PyTorch, found in the package bagel_export."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bagel_rt.artefact.contract import TASK_GRAPHS
from bagel_rt.artefact.folders import default_export_folder, use_model
from bagel_rt.cli.arguments import SYSTEM
from bagel_rt.cli.interrupt import Interrupts
from bagel_rt.cli.progress import Bars
from bagel_rt.errors import InputError
from bagel_rt.files.output_files import make_folder
from bagel_rt.files.typed_paths import typed_path

if TYPE_CHECKING:
    from bagel_export.checkpoint.sources import Asked
    from bagel_rt.adapters.read import Lora


def register(commands) -> None:
    export = commands.add_parser(
        "export",
        help="turn a checkpoint into an artefact",
        description="Turn a BAGEL checkpoint folder into an artefact folder that runs without PyTorch.",
    )
    add_checkpoint_arguments(export, required=True)
    export.add_argument("--out", type=Path, metavar="DIR", help="artefact folder (default: in the user's data folder)")
    export.add_argument("--task", choices=list(TASK_GRAPHS), default="full", help="understand: leave drawing out")
    export.add_argument(
        "--precision",
        metavar="NAME",
        default="fp32",
        help="exact (fp32), balanced (int8) or small (int4); bf16, fp16, w8a8, fp8; or parts, und=int4,gen=w8a8: see"
        " docs/precisions.md (default: fp32)",
    )
    export.add_argument(
        "--arithmetic", metavar="NAME", help="fp32, bf16 or fp16 inside quantised graphs (default: fp32; bf16 for fp8)"
    )
    export.add_argument(
        "--calibrate", type=Path, metavar="FILE", help="prompts, one a line, to calibrate on (default: built-in ones)"
    )
    export.add_argument(
        "--weights",
        choices=["copy", "link"],
        default="copy",
        help="link: read the checkpoint's own files through hard links where their type fits (default: copy)",
    )
    export.add_argument(
        "--system", **SYSTEM, help="a text that every call begins with (system prompt), kept in the artefact"
    )
    export.add_argument(
        "--style",
        metavar="FILE",
        help="how the model reasons: a TOML file, or a built-in name; `reason` takes it from there",
    )
    export.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="option values that calls begin with, a TOML file of tables [generate], [edit], [interleave], [ask]",
    )
    export.add_argument("--overwrite", action="store_true", help="replace the artefact that is there")
    export.add_argument("--default", action="store_true", help="make it the model that commands use without --model")
    export.add_argument("--no-verify", dest="verify", action="store_false", help="do not compare with the reference")
    export.set_defaults(run=run_export)


def add_checkpoint_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    """--ckpt and the adapter to merge into it."""
    group = parser.add_argument_group("checkpoint")
    group.add_argument(
        "--ckpt",
        required=required,
        metavar="PATH",
        help="checkpoint folder, weight file, or hub id (owner/name, owner/name@revision)",
    )
    group.add_argument(
        "--base", metavar="PATH", help="whole checkpoint, for the tensors, configs, tokenizer or VAE that --ckpt lacks"
    )
    group.add_argument("--weights-file", metavar="NAME", help="the weight file in --ckpt's folder, of several")
    group.add_argument(
        "--lora",
        type=Path,
        action="append",
        metavar="PATH",
        help="LoRA or DoRA adapter, a folder or file of peft, diffusers or kohya, merged into the weights (repeatable)",
    )
    group.add_argument(
        "--lora-scale",
        type=float,
        action="append",
        metavar="X",
        help="how much of the adapter (default: 1); given once for each of several",
    )


def chosen_lora(args: argparse.Namespace) -> list[Lora]:
    """The adapters of add_checkpoint_arguments; needs the exporter."""
    from bagel_rt.adapters.read import Lora

    paths, scales = args.lora or [], args.lora_scale or []
    if scales and not paths:
        raise InputError("--lora-scale is given without --lora PATH")
    if scales and len(scales) != len(paths):
        raise InputError(
            f"--lora-scale is given {len(scales)} times for {len(paths)} adapters; one for each, in their order, is"
            " expected"
        )
    return [Lora(typed_path(path), scale) for path, scale in zip(paths, scales or [1.0] * len(paths), strict=True)]


def asked_checkpoint(args: argparse.Namespace) -> Asked:
    """The checkpoint of add_checkpoint_arguments; needs the exporter."""
    from bagel_export.checkpoint.sources import Asked

    return Asked(args.ckpt, args.base, args.weights_file)


def require_exporter() -> None:
    """Raise InputError naming the extra to install when the exporter's packages are missing."""
    try:
        import bagel_export.artefact.export  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"export needs {error.name}; run: pip install 'bagel-rt[export]'") from None


def run_export(args: argparse.Namespace) -> None:
    require_exporter()
    from bagel_export.artefact.export import export
    from bagel_export.checkpoint.open import open_checkpoint

    lora, ckpt = chosen_lora(args), asked_checkpoint(args)
    out = None if args.out is None else typed_path(args.out)
    prompts = None if args.calibrate is None else typed_path(args.calibrate)
    if out is None:
        # opened first: a bad checkpoint leaves not even the folder above the artefact
        out = default_export_folder(open_checkpoint(ckpt, args.task, lora).name)
        make_folder(out.parent, parents=True)
    with Interrupts() as interrupts, Bars(bytes_in=("weights", "hashing")) as bars:
        for event in export(
            ckpt,
            out,
            args.task,
            args.overwrite,
            args.verify,
            args.precision,
            lora,
            args.weights,
            args.arithmetic,
            prompts,
            args.system,
            args.style,
            None if args.settings is None else typed_path(args.settings),
        ):
            interrupts.check()
            bars(event)
    print(out)
    if args.default:
        use_model(out)
        print(f"bagel-rt: commands without --model now use {out}", file=sys.stderr)
    else:
        print(
            f"bagel-rt: to make commands without --model use it: bagel-rt use {shlex.quote(str(out))}", file=sys.stderr
        )

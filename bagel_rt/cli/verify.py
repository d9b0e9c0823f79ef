"""`verify`: whether an artefact's files are as stored, its graphs open, and its stages compute what they should."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bagel_rt.artefact.folders import find_model
from bagel_rt.artefact.manifest import Manifest, read_manifest
from bagel_rt.cli.arguments import add_model_arguments, open_model
from bagel_rt.cli.export import add_checkpoint_arguments, asked_checkpoint, chosen_lora, require_exporter
from bagel_rt.cli.sign import compare_files
from bagel_rt.errors import InputError
from bagel_rt.files.output_files import check_file, write_bytes
from bagel_rt.files.typed_paths import typed_path
from bagel_rt.version import __version__

if TYPE_CHECKING:
    from bagel_engines.tensorrt.engine import TensorRtEngine
    from bagel_export.proof.findings import Finding
    from bagel_rt.api import Bagel
    from bagel_rt.tensorrt.compare_plans import PlanFinding


def register(commands) -> None:
    verify = commands.add_parser(
        "verify",
        help="check an artefact: its files, its graphs, and every stage against the checkpoint",
        description="Compare every file with its stored hash and open every graph on the engine; with --hash, only the"
        " former; with --key, the signature first (see `bagel-rt sign`). With --backend"
        " tensorrt, compare every plan with ONNX Runtime first and keep the finding beside it. With --ckpt, also run"
        " every stage in PyTorch and compare; with --record, compare with a recorded run of the official code. Exit"
        " code 1 when a stage differs.",
    )
    add_model_arguments(verify, switches=False)
    add_checkpoint_arguments(verify, required=False)
    verify.add_argument("--hash", action="store_true", help="compare the files' bytes alone, without an engine")
    verify.add_argument("--layers", action="store_true", help="stream a checkpoint larger than memory layer by layer")
    verify.add_argument("--record", type=Path, metavar="FILE.npz", help="a run recorded by bagel_export.proof.record")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write the findings here too")
    verify.set_defaults(run=run_verify)


def run_verify(args: argparse.Namespace) -> int:
    if args.ckpt is None and (args.layers or args.lora or args.base or args.weights_file):
        raise InputError(
            "--layers, --lora, --base and --weights-file say how to read a checkpoint: name it with --ckpt PATH"
        )
    if args.hash and (args.ckpt or args.record or args.json):
        raise InputError("--hash compares files alone: leave out --ckpt, --record and --json, or --hash")
    if args.json is not None:
        args.json = typed_path(args.json)
        check_file(args.json)
    manifest = read_manifest(find_model(args.model).folder)
    _check_trust(manifest, args.key)
    if args.hash:
        print(f"{manifest.folder}: {len(manifest.files)} files as stored")
        return 0
    args.key = None  # done, and the files with it
    with open_model(args) as bagel:
        plans = _check_plans(bagel, args.cache_tokens) if args.backend == "tensorrt" else []
        if not all(plan.passed for plan in plans):  # the engine refuses such a plan: no stage below could run
            _write_json(args, bagel, plans=[plan.facts() for plan in plans], same=False)
            return 1
        findings = _prove(args, bagel) if args.ckpt or args.record else []
        for name in bagel.manifest.graphs:
            bagel.graphs.open(name)
        count = len(bagel.manifest.files)
        print(f"{bagel.manifest.folder}: {count} files as stored, {len(bagel.manifest.graphs)} graphs open")
        return _report(args, bagel, findings, plans) if findings or plans else 0


def _check_plans(bagel: Bagel, cache_tokens: int | None) -> list[PlanFinding]:
    """Compare every graph's TensorRT plan, built where there is none, with ONNX Runtime; prints each finding."""
    from bagel_rt.kv_cache.page_pool import CACHE_TOKENS
    from bagel_rt.tensorrt.compare_plans import check_plans
    from bagel_rt.tensorrt.stores import limits_of

    limits = limits_of(bagel.manifest, None, None, None, CACHE_TOKENS if cache_tokens is None else cache_tokens)
    found = []
    for plan in check_plans(bagel.manifest, cast("TensorRtEngine", bagel.graphs.engine), limits):
        for output in plan.outputs:
            seen = "not finite" if output.relative_l2 is None else f"{output.relative_l2:9.1e}"
            print(
                f"{plan.graph:12} {output.output:9} {seen} of {output.tolerance:.0e}"
                f"  {'same' if output.passed else 'DIFFERS'}  from {plan.reference}"
            )
        if not plan.passed:
            print(f"{plan.graph:12} is not used until it is built anew: remove {plan.plan}, or update TensorRT")
        found.append(plan)
    return found


def _prove(args: argparse.Namespace, bagel: Bagel) -> list[Finding]:
    """Compare the artefact's stages with PyTorch on the checkpoint, with a recorded official run, or with both."""
    if args.ckpt:  # comparing with a record needs no PyTorch
        require_exporter()
    from bagel_export.proof import verify

    record = verify.recorded(bagel.manifest, typed_path(args.record)) if args.record else None
    runs, findings = [], []
    if args.ckpt:
        lora = chosen_lora(args)
        print("bagel-rt: running the reference; with a large model this takes a while", file=sys.stderr)
        # all of them before a graph is loaded: both sides in memory at once may not fit
        runs = list(verify.referenced(bagel.manifest, asked_checkpoint(args), lora, args.layers, record))
    for run in runs:
        findings += verify.compare(bagel, run)
        if record:
            findings += verify.compare_encoders(run, record)
    if record:
        findings += verify.compare(bagel, record)
    return findings


def _report(args: argparse.Namespace, bagel: Bagel, findings: list[Finding], plans: list[PlanFinding]) -> int:
    compared = {"plans": [plan.facts() for plan in plans]} if plans else {}
    if not findings:
        _write_json(args, bagel, same=True, **compared)
        return 0
    from bagel_export.proof.findings import report, table

    print(table(findings))
    differ = sum(not finding.same for finding in findings)
    _write_json(args, bagel, **report(findings, **compared))
    print(f"{len(findings) - differ} of {len(findings)} stages are the same" + (f", {differ} DIFFER" if differ else ""))
    return 1 if differ else 0


def _write_json(args: argparse.Namespace, bagel: Bagel, **findings: Any) -> None:
    if args.json is not None:
        against = {"checkpoint": args.ckpt and str(args.ckpt), "record": args.record and str(args.record)}
        about = {"model": bagel.model, "engine": bagel.engine, "bagel_rt": __version__, **against}
        write_bytes(args.json, (json.dumps({**about, **findings}, indent=1) + "\n").encode())


def _check_trust(manifest: Manifest, key: Path | None) -> None:
    """The signature where a key is given, the kind of the graphs, and every byte."""
    if key is not None:
        from bagel_rt.artefact.signatures import check_signature

        print(f"{manifest.folder}: signed with the key {check_signature(manifest, key)}")
    manifest.check_graphs()
    compare_files(manifest)

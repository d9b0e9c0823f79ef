"""`build`: build an artefact's TensorRT plans now, instead of at their first use."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bagel_rt.artefact.folders import find_model
from bagel_rt.artefact.manifest import Manifest, read_manifest
from bagel_rt.cli.precision_check import check_precision
from bagel_rt.cli.progress import Bars
from bagel_rt.errors import EngineUnavailableError, InputError

if TYPE_CHECKING:
    from bagel_engines.tensorrt.engine import Plans
    from bagel_engines.tensorrt.plan_builder import Flavour
    from bagel_engines.tensorrt.plan_store import Target


def register(commands) -> None:
    build = commands.add_parser(
        "build",
        help="build TensorRT plans of an artefact",
        description="Build what `--backend tensorrt` would build on its first use. With --sm, plans for another GPU"
        " (TensorRT-RTX), which no GPU is needed for.",
    )
    build.add_argument("--model", metavar="DIR", help="artefact (default: as for generate)")
    build.add_argument(
        "--precision",
        metavar="NAME",
        help="what the plans must be of, named as for export; an artefact of another precision is refused, with the"
        " commands that make the right one (default: whatever the artefact is of)",
    )
    build.add_argument("--arithmetic", metavar="NAME", help="with --precision: what quantised graphs must compute in")
    build.add_argument("--sm", action="append", metavar="SM", help="for this architecture, SM120 (may be repeated)")
    build.add_argument("--max-height", type=int, metavar="N", help="largest picture, pixels (default: the model's)")
    build.add_argument("--max-width", type=int, metavar="N")
    build.add_argument("--max-context", type=int, metavar="N", help="longest context, tokens (default: 9216)")
    build.add_argument("--cache-tokens", type=int, metavar="N", help="page pool (default: 32768)")
    build.add_argument("--weight-budget", type=float, metavar="GIB", help="keep this much on the GPU, stream the rest")
    build.add_argument("--only", nargs="*", metavar="GRAPH", help="these graphs (default: all)")
    build.add_argument("--dry-run", action="store_true", help="say which plans are there and which would be built")
    build.set_defaults(run=run_build)


def run_build(args: argparse.Namespace) -> None:
    from bagel_rt.kv_cache.page_pool import CACHE_TOKENS
    from bagel_rt.tensorrt.stores import limits_of, plans_for

    manifest = read_manifest(find_model(args.model).folder)
    _check(args, manifest)
    pool_tokens = CACHE_TOKENS if args.cache_tokens is None else args.cache_tokens
    limits = limits_of(manifest, args.max_height, args.max_width, args.max_context, pool_tokens)
    budget = None if args.weight_budget is None else int(args.weight_budget * 2**30)
    found, targets = _flavour_and_targets(args.sm)
    with Bars() as bars:
        plans = plans_for(manifest, limits, budget=budget, on_step=lambda *step: _tell(bars, *step))
        tell = _tell_of if args.dry_run else _build
        missing = [tell(found, plans, manifest, graph, t) for t in targets for graph in args.only or manifest.graphs]
    if args.dry_run:
        print(_total(missing))
    print(f"plans of {manifest.name}, {manifest.precision} computing in {manifest.arithmetic}: {plans.folder}")


def _check(args: argparse.Namespace, manifest: Manifest) -> None:
    if args.precision is not None:
        check_precision(manifest, args.precision, args.arithmetic, ["build", *_sizes_and_targets(args)])
    elif args.arithmetic is not None:
        raise InputError("--arithmetic says what a --precision computes in; name that too")
    unknown = sorted(set(args.only or ()) - set(manifest.graphs))
    if unknown:
        raise InputError(f"graph {unknown[0]!r} is unknown; allowed: {', '.join(manifest.graphs)}")


def _flavour_and_targets(architectures: list[str] | None) -> tuple[Flavour, list[Target]]:
    from bagel_engines import EngineFailure
    from bagel_engines.device import cuda
    from bagel_engines.tensorrt import plan_builder
    from bagel_engines.tensorrt.plan_store import Target

    try:
        found = plan_builder.flavour("tensorrt-rtx" if architectures else None)
        if architectures:
            return found, [Target.across(sm) for sm in architectures]
        return found, [Target.at_hand(cuda.device_index("cuda"))]
    except EngineFailure as error:
        raise EngineUnavailableError(str(error)) from error


def _build(found: Flavour, plans: Plans, manifest: Manifest, graph: str, target: Target) -> None:
    from bagel_engines.tensorrt.engine import plan_file
    from bagel_engines.tensorrt.plan_store import record_of
    from bagel_rt.engine_errors import named_failures

    with named_failures():
        path = plan_file(found, manifest.graph_file(graph), plans, target)
    print(_line(graph, target, found, record_of(path)))


def _tell_of(found: Flavour, plans: Plans, manifest: Manifest, graph: str, target: Target) -> int | None:
    """Prints what there is of a plan. Returns the bytes of weights that it would be built of, None of one that is
    there."""
    from bagel_engines.tensorrt.plan_builder import check_architecture
    from bagel_engines.tensorrt.plan_store import PlanStore, record_of
    from bagel_rt.engine_errors import named_failures

    with named_failures():
        check_architecture(found, None if target.is_here else target.architecture)
    path = PlanStore(plans.folder).find(plans.key(manifest.graph_file(graph), found, target))
    if path is not None:
        print(_line(graph, target, found, record_of(path)))
        return None
    weights = int(manifest.graphs[graph].get("weight_bytes", 0))
    print(f"{graph:12} {target.gpu:8} {'-':>9} MiB  to be built, of {weights / 2**20:.1f} MiB of weights")
    return weights


def _line(graph: str, target: Target, found: Flavour, record: Mapping[str, Any]) -> str:
    from bagel_engines.tensorrt.plan_store import standing

    size = record["bytes"] / 2**20
    return f"{graph:12} {target.gpu:8} {size:9.1f} MiB  built with {found.name} {found.version}, {standing(record)}"


def _total(missing: list[int | None]) -> str:
    weights = sum(size or 0 for size in missing) / 2**20
    there = f"{missing.count(None)} of {len(missing)} plans are there"
    return f"{there}; nothing was built. To be built: of {weights:.1f} MiB of weights"


def _sizes_and_targets(args: argparse.Namespace) -> list[str]:
    """The size and GPU options of this run, as words for a command that is advised for another artefact."""
    words = [word for architecture in args.sm or () for word in ("--sm", architecture)]
    for name in ("max_height", "max_width", "max_context", "cache_tokens", "weight_budget"):
        if (value := getattr(args, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words + (["--only", *args.only] if args.only else [])


def _tell(bars: Bars, graph: str, phase: str, done: int, total: int) -> None:
    from bagel_rt.events import Progress

    bars(Progress(f"{graph}: {phase}", done, total))

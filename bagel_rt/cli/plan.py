"""`plan`: the memory and time that a request will take, before it is made."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from bagel_engines import Engine, EngineFailure, Settings, open_engine
from bagel_rt.artefact.folders import find_model
from bagel_rt.artefact.manifest import Manifest, read_manifest
from bagel_rt.artefact.precision import check_rounding, spelled_out
from bagel_rt.cli.arguments import adapters_of, add_adapters_argument, add_preset_argument, text_argument
from bagel_rt.cli.progress import Bars
from bagel_rt.conversation.calls import rehearsal
from bagel_rt.errors import EngineUnavailableError, InputError
from bagel_rt.estimate.choice import AUTO, resolved, worth_it
from bagel_rt.estimate.forecast import Forecast, forecast
from bagel_rt.events import finished
from bagel_rt.inputs.brought_settings import settings_in
from bagel_rt.options import checks, presets
from bagel_rt.options.defaults import with_values
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.text_options import TextOptions

PROMPT = "A photograph of a lighthouse on a rocky coast at dusk, warm light in its windows, long exposure of the waves."
GIB = 2**30


def register(commands) -> None:
    plan = commands.add_parser(
        "plan",
        help="say what memory and time a request will take",
        description="Say what memory and time a picture, an edit or an answer will take, on every engine that is"
        " installed. Memory is computed; time is measured on one layer of the model, in seconds.",
    )
    plan.add_argument("--model", metavar="DIR", help="artefact (default: as for generate)")
    plan.add_argument("--height", type=int, metavar="N", help="pixels (default: the model's largest)")
    plan.add_argument("--width", type=int, metavar="N")
    kind = plan.add_mutually_exclusive_group()
    kind.add_argument("--edit", action="store_true", help="of an edit of a picture of that size")
    kind.add_argument(
        "--ask", action="store_true", help="of an answer, about a picture of that size where one is given"
    )
    plan.add_argument("--think", action="store_true", help="with a plan or a reasoning of --tokens")
    plan.add_argument("--tokens", type=int, default=300, metavar="N", help="of text the model writes (default: 300)")
    plan.add_argument(
        "--prompt", type=text_argument, default=PROMPT, metavar="TEXT", help="(default: one of a usual length)"
    )
    plan.add_argument("--num-timesteps", type=int, metavar="N", help="points of the schedule (default: the preset's)")
    plan.add_argument("--step-cache", metavar="NAME", help="taylorseer: forecast two of three steps")
    plan.add_argument("--backend", default="auto", help="openvino or onnxruntime (default: every one installed)")
    plan.add_argument("--threads", type=int, metavar="N", help="engine threads (default: the engine's choice)")
    plan.add_argument("--arithmetic", help="as for generate")
    plan.add_argument("--cache-tokens", type=int, metavar="N", help="as for generate")
    plan.add_argument("--low-memory", action="store_true", help="as for generate")
    add_adapters_argument(plan)
    plan.add_argument("--max-memory", type=float, metavar="GIB", help="what may be taken (default: what is free)")
    plan.add_argument("--no-time", dest="time", action="store_false", help="measure nothing, say only the memory")
    plan.add_argument("--json", action="store_true", help="the same as JSON")
    add_preset_argument(plan, presets.GENERATE)
    plan.set_defaults(run=run_plan)


def run_plan(args: argparse.Namespace) -> None:
    from bagel_rt.estimate.admission import limit_of
    from bagel_rt.kv_cache.page_pool import CACHE_TOKENS

    checks.whole("tokens", args.tokens, least=1)
    checks.positive("max_memory", args.max_memory, optional=True)
    manifest = read_manifest(find_model(args.model).folder)
    check_rounding(manifest, args.arithmetic)
    items, opts = _request(args, manifest)
    held = _held(args, manifest)
    room, limit = args.cache_tokens or CACHE_TOKENS, limit_of(args.max_memory)
    found = []
    for backend in _backends(args, manifest):
        with Bars() as bars:
            engine = _engine(backend, args, manifest)
            how = {"low_memory": args.low_memory, "timed": args.time, "held": held}
            found.append(finished(forecast(manifest, engine, rehearsal(items), opts, limit, room, **how), bars))
    if args.json:
        print(json.dumps([_as_json(one) for one in found], indent=1))
        return
    print(f"{manifest.name} ({manifest.precision}): {_title(args, opts, items)}")
    for one in found:
        _print(one)


def _held(args: argparse.Namespace, manifest: Manifest) -> int:
    """Bytes of the adapters that are to be loaded."""
    from bagel_rt.adapters.loaded import load_adapters

    paths = adapters_of(args)
    return load_adapters(manifest, paths).nbytes if paths else 0


def _backends(args: argparse.Namespace, manifest: Manifest) -> list[str]:
    """Every engine installed; of an artefact whose way is chosen by measurement, that way first or alone."""
    from bagel_engines import select

    if args.backend != "auto":
        return [args.backend]
    if args.arithmetic == AUTO:
        return [AUTO]
    by_itself = args.arithmetic is None and worth_it(manifest) and args.time
    return [*([AUTO] if by_itself else []), *select.installed()]


def _engine(backend: str, args: argparse.Namespace, manifest: Manifest) -> Engine:
    threads = checks.threads("threads", args.threads)
    try:
        backend, arithmetic = resolved(manifest, backend, "cpu", spelled_out(args.arithmetic), threads)
    except EngineFailure as error:
        raise EngineUnavailableError(str(error)) from error
    wanted = Settings(
        threads=threads,
        arithmetic=arithmetic,
        stated=manifest.arithmetic,
        weights=manifest.weight_bytes,
        low_memory=args.low_memory,
    )
    try:
        return open_engine(backend, settings=wanted)
    except EngineFailure as error:
        raise EngineUnavailableError(str(error)) from error


def _request(args: argparse.Namespace, manifest: Manifest) -> tuple[list, Any]:
    """The request that is planned: its items (texts, images) and options."""
    from PIL import Image

    own, most = settings_in(manifest), manifest.vae_transform.max_size
    size = (args.width or args.height or most, args.height or args.width or most)
    if args.ask:
        picture = [Image.new("RGB", size)] if args.height or args.width else []
        values = {"think": args.think, "max_tokens": args.tokens + 1}
        return [*picture, args.prompt], with_values(presets.defaults(presets.ASK, args.preset, own), values)
    if manifest.task != "full":
        raise InputError(f"{manifest.folder}: exported with --task understand, it cannot draw; plan --ask")
    given = {
        "height": args.height,
        "width": args.width,
        "num_timesteps": args.num_timesteps,
        "step_cache": args.step_cache,
    }
    values = {name: value for name, value in given.items() if value is not None}
    values |= {"think": args.think, "max_think_tokens": args.tokens + 1}
    task = presets.EDIT if args.edit else presets.GENERATE
    items = [Image.new("RGB", size), args.prompt] if args.edit else [args.prompt]
    opts = with_values(presets.defaults(task, args.preset, own), values)
    return items, opts if args.edit or opts.height or opts.width else replace(opts, height=most, width=most)


def _title(args: argparse.Namespace, opts: ImageOptions | TextOptions, items: list) -> str:
    size = next((f" of a picture of {item.width}x{item.height}" for item in items if not isinstance(item, str)), "")
    written = f", {args.tokens} tokens written" if args.ask or args.think else ""
    if not isinstance(opts, ImageOptions):
        return f"an answer{size.replace(' of', ' about', 1)}{written}"
    if not args.edit:
        size = f" of {opts.width or opts.height}x{opts.height or opts.width}"
    return f"{'an edit' if args.edit else 'a picture'}{size}, {opts.num_timesteps} points{written}"


def _print(found: Forecast) -> None:
    print(f"\n{found.engine}")
    for name, size in found.memory.parts.items():
        print(f"  {name:24} {size / GIB:9.2f} GiB")
    print(f"  {'in all':24} {found.memory.total / GIB:9.2f} GiB: {'fits' if found.fits else 'too much'}, {found.limit}")
    for line in found.instead:
        print(f"    instead: {line}")
    for name, seconds in found.seconds.items():
        print(f"  {name:24} {_duration(seconds):>13}")
    if found.seconds:
        print(f"  {'in all':24} {_duration(sum(found.seconds.values())):>13}")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _as_json(found: Forecast) -> dict[str, Any]:
    return {
        "engine": found.engine,
        "memory_bytes": {**found.memory.parts, "in all": found.memory.total},
        "limit_bytes": found.limit.size,
        "fits": found.fits,
        "instead": found.instead,
        "seconds": found.seconds,
    }

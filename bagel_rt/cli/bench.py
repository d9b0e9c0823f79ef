"""`bench`: what this machine does with a model, in about two minutes and one JSON document."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from bagel_rt.artefact.folders import find_model
from bagel_rt.artefact.manifest import Manifest, read_manifest
from bagel_rt.cli.arguments import add_model_arguments, open_model
from bagel_rt.cli.progress import Bars
from bagel_rt.cli.terminal import print_json
from bagel_rt.errors import InputError
from bagel_rt.options import defaults
from bagel_rt.options.text_options import TextOptions

if TYPE_CHECKING:
    from bagel_rt.api import Bagel

SHORT = 10.0  # seconds: a request that is to take less is carried out twice, of a longer one a layer is timed
PROMPT, QUESTION, SEED = "a red circle left of a blue square", "what is in the picture?", 0
TOKENS, SIDE, POINTS = 50, 512, 50


def register(commands) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure a picture, an edit and a token here",
        description="Measure what this machine does with a model: a picture and an edit of 512 x 512 (or the model's"
        " largest) with 50 points, a written token, and the share of the machine's own rates. What would take long is"
        " computed from one layer. Ends in one JSON document, to be passed on.",
    )
    add_model_arguments(bench, switches=False)
    bench.set_defaults(run=run_bench)


def run_bench(args: argparse.Namespace) -> None:
    from bagel_engines.diagnosis import packages
    from bagel_rt.estimate.machine import machine
    from bagel_rt.version import __version__

    manifest = read_manifest(find_model(args.model).folder)
    if manifest.widths is None or args.device != "cpu" or args.backend == "tensorrt":
        raise InputError("bench measures on a CPU, models exported by this version; leave --device and tensorrt out")
    with open_model(args) as bagel:
        report = {"bagel-rt": __version__, **machine(), "packages": packages()}
        report |= {"model": bagel.model, "precision": manifest.precision}
        report |= _requests(bagel) | _layer(bagel) | {"engine": bagel.engine}
    print_json(report)


def _requests(bagel: Bagel) -> dict[str, Any]:
    """Seconds of each kind of request: forecast from one layer, and of those that are short measured as well."""
    found = {}
    for name, (items, opts) in _wanted(bagel.manifest).items():
        print(f"bagel-rt: {name} ...", file=sys.stderr)
        forecast = _forecast(bagel, items, opts)
        found[name] = {"forecast_s": round(forecast, 3)}
        if forecast < SHORT:
            _carry_out(bagel, items, opts)  # packs the weights, too
            started = time.perf_counter()
            _carry_out(bagel, items, opts)
            found[name]["measured_s"] = round(time.perf_counter() - started, 3)
    seconds = found[f"{TOKENS} tokens"]
    found["tokens_per_s"] = round(TOKENS / seconds.get("measured_s", seconds["forecast_s"]), 2)
    return found


def _wanted(manifest: Manifest) -> dict[str, tuple[list[Any], Any]]:
    """Items and options of each request."""
    from PIL import Image

    answer = defaults.with_values(defaults.ANSWER, {"max_tokens": TOKENS})
    wanted = {f"{TOKENS} tokens": ([QUESTION], answer)}
    if manifest.task != "full":
        return wanted
    side = min(SIDE, manifest.model.latent_stride * manifest.model.max_latent_size)
    size, plain = {"height": side, "width": side, "num_timesteps": POINTS}, Image.new("RGB", (side, side), "grey")
    drawn = defaults.with_values(defaults.GENERATE, size)
    edited = defaults.with_values(defaults.EDIT, size)
    return {f"picture {side}x{side}": ([PROMPT], drawn), f"edit {side}x{side}": ([plain, PROMPT], edited), **wanted}


def _forecast(bagel: Bagel, items: list[Any], opts: Any) -> float:
    from bagel_rt.conversation.calls import rehearsal
    from bagel_rt.estimate.admission import limit_of
    from bagel_rt.estimate.forecast import forecast
    from bagel_rt.events import finished
    from bagel_rt.kv_cache.page_pool import CACHE_TOKENS

    engine = bagel.graphs.engine
    with Bars() as bars:
        work = forecast(bagel.manifest, engine, rehearsal(items), opts, limit_of(None), CACHE_TOKENS)
        return sum(finished(work, bars).seconds.values())


def _carry_out(bagel: Bagel, items: list[Any], opts: Any) -> None:
    if isinstance(opts, TextOptions):
        bagel.ask(items[0], max_tokens=opts.max_tokens)
        return
    how = {"height": opts.height, "width": opts.width, "num_timesteps": opts.num_timesteps, "seed": SEED}
    bagel.generate(items[0], **how) if len(items) == 1 else bagel.edit(*items, **how)


def _layer(bagel: Bagel) -> dict[str, Any]:
    """One layer's milliseconds, and its share of this machine's rates of float32 products and of reading."""
    from bagel_rt.artefact.contract import LAYER
    from bagel_rt.estimate.calibration import WORKS, Layer, operations
    from bagel_rt.estimate.machine import float32_rate, read_rate

    manifest = bagel.manifest
    if manifest.widths is None or not manifest.has(LAYER):
        return {}
    layer = Layer(manifest, bagel.graphs.engine)
    seconds = {name: layer.seconds(name) for name in WORKS}
    rate, read = float32_rate(), read_rate()
    many = operations(manifest.model, manifest.widths.inner, 1026, WORKS["1024"]["past"]) / seconds["1024"]
    experts = 2 if manifest.task == "full" else 1
    return {
        "layer_ms": {name: round(1000 * value, 3) for name, value in seconds.items()},
        "float32_gflop_per_s": round(rate / 1e9, 1),
        "read_gb_per_s": round(read / 1e9, 1),
        "share_of_float32_rate": round(many / rate, 3),
        "share_of_read_rate": round(manifest.weights_of(LAYER) / experts / seconds["token"] / read, 3),
    }

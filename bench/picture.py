"""Is a whole picture faster than by the official control flow?  python bench/picture.py [--small] [--out FILE.json]

Text-to-image with the official app's settings (50 points, text guidance 4, image guidance 1.5, interval 0.4 to 1) on
decoder layers of the 7B's shape with random weights. The official control flow in PyTorch (torch_picture.py, in a
process of its own), in the fastest of its forms, which pictures of 3 points find out, against bagel-rt's ways:
`generate`, with and without the step cache. A way is [ENGINE:]PRECISION[/ARITHMETIC]; without an arithmetic it is
bfloat16 on OpenVINO, "int8/int8" is int8 weights in int8. Alternating; medians in milliseconds, ratios round by round.
ViT and VAE are small, so that the decoder is what is compared. Nothing else may run meanwhile. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bagel_engines.host_cpus import own_cpus
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.synthetic import RELEASED, SMALL_LLM, Shape, write_checkpoint
from bagel_rt.api import Bagel, load
from bagel_rt.artefact.manifest import ResizeRule
from bagel_rt.conversation.calls import rehearsal
from bagel_rt.estimate.admission import limit_of
from bagel_rt.estimate.forecast import forecast
from bagel_rt.events import finished
from bagel_rt.kv_cache.page_pool import CACHE_TOKENS
from bagel_rt.options import presets
from bagel_rt.options.image_options import ImageOptions
from bench.peer import TORCH, Form, Peer, best_forms, forms, spoken
from bench.timing import against, alternating, kept, machine, save
from bench.ways import Way, exported, refused, way

WAYS = ("int8/int8", "w8a8", "onnxruntime:w8a8/float32")
SCOUT = 3  # points of the pictures with which PyTorch's forms are compared
PROMPT = "a red cube on a wooden table beside a window, in the evening light, painted in oil"


def shape(small: bool, layers: int) -> Shape:
    llm = SMALL_LLM if small else replace(RELEASED.llm, vocab_size=SMALL_LLM.vocab_size)
    image = ResizeRule(128, 64, 16) if small else ResizeRule(1024, 512, 16)
    sizes = Shape(replace(llm, num_hidden_layers=layers), dtype=torch.bfloat16, vae_transform=image)
    return sizes if small else replace(sizes, max_latent_size=64)


def drawn(bagel: Bagel, options: Any, step_cache: str | None) -> Callable[[], np.ndarray]:
    values = {k: getattr(options, k) for k in ("height", "width", "seed", "num_timesteps", "cfg_img_scale")}
    return lambda: bagel.generate(PROMPT, step_cache=step_cache, **values).latent


def options(side: int, points: int) -> ImageOptions:
    size = {"height": side, "width": side, "seed": 1, "num_timesteps": points}
    return replace(presets.defaults(presets.GENERATE, "app"), **size)


def planned(bagel: Bagel, opts: ImageOptions) -> float:
    """Milliseconds that `bagel-rt plan` forecasts for the picture from a few calls of each graph."""
    work = forecast(bagel.manifest, bagel.graphs.engine, rehearsal([PROMPT]), opts, limit_of(None), CACHE_TOKENS)
    return round(1000 * sum(finished(work).seconds.values()), 1)


def compared(
    peer: Peer, models: Mapping[Way, Bagel], size: tuple[int, int], among: Iterable[Form], rounds: int, folder: Path
) -> dict[str, dict[str, Any]]:
    """Times by way. size: side in pixels, and points."""
    side, points = size
    best, told = best_forms(peer, f"{side} {min(SCOUT, points)}", among)
    opts, latents = options(side, points), dict[str, np.ndarray]()
    runs: dict[str, Callable[[], np.ndarray]] = {}
    for each, bagel in models.items():
        drawn(bagel, options(side, SCOUT), None)()  # packs the weights
        runs[f"{each}"] = drawn(bagel, opts, None)
        runs[f"{each}, step cache"] = drawn(bagel, opts, "taylorseer")
    official = {TORCH: partial(peer.run, f"{side} {points}", best[TORCH], folder / "latents.npy")}
    row = against(alternating(official | kept(runs, latents), rounds, warm=False), TORCH)
    exact = np.load(folder / "latents.npy")
    for name, found in latents.items():
        row[name]["latents_apart"] = round(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)), 4)
    for each, bagel in models.items():
        for name, cache in ((f"{each}", None), (f"{each}, step cache", "taylorseer")):
            row[name]["planned_ms"] = planned(bagel, replace(opts, step_cache=cache))
    row[TORCH] |= {"form": spoken(best[TORCH]), f"forms_{SCOUT}_points": told}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a small decoder: shows that the benchmark runs")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024], help="of the picture, pixels")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--points", type=int, default=50, help="num_timesteps (the app: 50)")
    parser.add_argument("--ways", nargs="+", type=way, default=[*map(way, WAYS)], metavar="PRECISION[/ARITHMETIC]")
    parser.add_argument("--rounds", type=int, nargs="+", default=[2, 1], help="for each side")
    parser.add_argument("--eager", action="store_true", help="of PyTorch's forms only those that are not compiled")
    parser.add_argument("--out", type=Path, help="also write the result to this file, after every side")
    args = parser.parse_args()
    without = refused(args.ways)
    ways = [each for each in args.ways if each not in without]
    report: dict[str, Any] = {
        "question": "a whole text-to-image against the official control flow (ratio of time), same layers",
        "shape": f"{args.layers} layer(s), {'small' if args.small else 'of BAGEL-7B-MoT, both experts'}",
        "settings": f"app preset, num_timesteps {args.points}",
        "refused_here": {str(each): reason for each, reason in without.items()},
        "results": {},
        **machine(),
    }
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        checkpoint = open_checkpoint(write_checkpoint(folder / "checkpoint", shape(args.small, args.layers)))
        exported(ways, checkpoint.folder, folder)
        models = {w: load(w.artefact(folder), w.backend, arithmetic=w.arithmetic) for w in ways}
        report["engines"] = {str(each): bagel.engine for each, bagel in models.items()}
        peer = Peer("bench.torch_picture", str(checkpoint.folder))
        # fewer threads never won with so many rows (bench/layers.py)
        among = [form for form in forms(not args.eager, int8=False) if form[2] == own_cpus()]
        for side, rounds in zip(args.sides, args.rounds, strict=True):
            row = compared(peer, models, (side, args.points), among, rounds, folder)
            report["results"][f"{side} x {side}"] = {"rounds": rounds, **row}
            print(side, json.dumps(row), file=sys.stderr, flush=True)
            if args.out:
                save(report, args.out)
        peer.close()
    print(json.dumps(report))


if __name__ == "__main__":
    main()

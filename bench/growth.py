"""How does the cost grow with latents, context and layers?  python bench/growth.py [--small] [--out F] [--plot F.png]

Decoder layers with random weights on OpenVINO. One layer of the 7B's shape (int8 weights in bfloat16 and in int8, w8a8
weights) beside PyTorch in bfloat16: denoising over 256 to 4096 latents, denoising 1024 latents and writing one token
over contexts of 0 to 16384 tokens. 1 to 28 layers of 1024 (int8 weights, in int8): denoising 1024 latents, one token,
and the peak of anonymous and shared memory of a process that does it. Medians in milliseconds, alternating. Nothing
else may run meanwhile. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bagel_export.artefact.export import model_dims
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.synthetic import RELEASED, SMALL_LLM, Shape, write_checkpoint
from bench.layers import Torch, Work, engine_runs, measured, shape
from bench.peer import TORCH
from bench.timing import finish, machine
from bench.watch import watched
from bench.ways import exported, way

WAYS, DEEP_WAY = ("int8", "int8/int8", "w8a8"), "int8/int8"

DEEP = """
import json, sys
from pathlib import Path
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.artefact.export import model_dims
from bench.layers import Work, arrays, engine_runs
from bench.timing import alternating
from bench.ways import way
import statistics
checkpoint, folder, told, latents, context, rounds = sys.argv[1:]
checkpoint = open_checkpoint(Path(checkpoint))
(prepare,) = engine_runs([way(told)], Path(folder)).values()
works = {"denoise": Work("", 2, int(latents), int(context)), "token": Work("", 1, 0, int(context))}
runs = {name: prepare(arrays(work, model_dims(checkpoint))) for name, work in works.items()}
taken = alternating(runs, int(rounds))
print(json.dumps({name: round(1000 * statistics.median(values), 2) for name, values in taken.items()}))
"""


@dataclass(frozen=True)
class Axes:
    latents: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    contexts: tuple[int, ...] = (0, 1024, 2048, 4096, 8192, 16384)
    layers: tuple[int, ...] = (1, 2, 4, 8, 16, 28)
    drawn: int = 1024  # latents where contexts and layers grow


SMALL = Axes((16, 32), (0, 8), (1,), 16)


def grown(axes: Axes) -> dict[str, dict[int, Work]]:
    return {
        "latents": {n: Work(f"{n} latents", 2, n, 50) for n in axes.latents},
        "context, denoising": {n: Work(f"{axes.drawn} latents, context {n}", 2, axes.drawn, n) for n in axes.contexts},
        "context, one token": {n: Work(f"one token, context {n}", 1, 0, n) for n in axes.contexts},
    }


def wide(axes: Axes, small: bool, rounds: int, folder: Path) -> dict[str, dict[int, Any]]:
    """Times of one layer of the 7B's shape: by axis (latents, context), and value on it."""
    checkpoint = open_checkpoint(write_checkpoint(folder / "checkpoint", shape(small)))
    ways = [*map(way, WAYS)]
    prepare = {TORCH: Torch(checkpoint, "bfloat16").prepared}
    exported(ways, checkpoint.folder, folder)
    prepare |= engine_runs(ways, folder)
    model = model_dims(checkpoint)
    return {
        axis: {place: measured(work, model, prepare, rounds) for place, work in works.items()}
        for axis, works in grown(axes).items()
    }


def deep(axes: Axes, small: bool, rounds: int, folder: Path) -> dict[int, Any]:
    """Stacks of narrower layers, each in a process of its own."""
    found = {}
    for count in axes.layers:
        narrow = SMALL_LLM if small else replace(
            RELEASED.llm,
            hidden_size=1024, intermediate_size=5376, num_attention_heads=8, num_key_value_heads=2, vocab_size=272,
        )  # fmt: skip
        place = folder / str(count)
        sizes = Shape(replace(narrow, num_hidden_layers=count), dtype=torch.bfloat16)
        checkpoint = open_checkpoint(write_checkpoint(place / "checkpoint", sizes))
        exported([way(DEEP_WAY)], checkpoint.folder, place)
        options = [checkpoint.folder, place, DEEP_WAY, axes.drawn, 50, rounds]
        run = watched([sys.executable, "-c", DEEP, *map(str, options)])
        taken = json.loads(run["last_line"])
        found[count] = taken | {"peak_anonymous_and_shared_gib": run["peak_anonymous_and_shared_gib"]}
        print(count, "layers", json.dumps(found[count]), file=sys.stderr, flush=True)
    return found


def plot(results: Mapping[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    axes = {
        "latents": "latents",
        "context, denoising": "context (1024 latents)",
        "context, one token": "context (a token)",
    }
    for panel, (axis, told) in zip(panels[0], axes.items(), strict=True):
        places = list(results[axis])
        for name in results[axis][places[0]]:
            panel.plot(places, [results[axis][place][name]["ms"] for place in places], marker="o", label=name)
        panel.set(xlabel=told, ylabel="ms, one layer of the 7B's shape")
        panel.legend()
    layers = results["layers"]
    told = {"denoise": "ms, 1024 latents", "token": "ms, a token", "peak_anonymous_and_shared_gib": "GiB, at most"}
    for panel, (what, label) in zip(panels[1], told.items(), strict=True):
        panel.plot(list(layers), [row[what] for row in layers.values()], marker="o")
        panel.set(xlabel=f"layers of 1024, {DEEP_WAY}", ylabel=label)
    for panel in panels.flat:
        panel.set_ylim(0, None)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small layers: shows that the benchmark runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    parser.add_argument("--plot", type=Path, help="draw it (needs matplotlib)")
    args = parser.parse_args()
    axes = SMALL if args.small else Axes()
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, Any] = wide(axes, args.small, args.rounds, Path(folder) / "wide")
        results["layers"] = deep(axes, args.small, args.rounds, Path(folder))
    report = {
        "question": "milliseconds by latents, context and layers",
        "shape": "small" if args.small else "one layer of BAGEL-7B-MoT; 1 to 28 layers of 1024",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rounds": args.rounds,
        "results": results,
        **machine(),
    }
    if args.plot:
        plot(results, args.plot)
    finish(report, args.out)


if __name__ == "__main__":
    main()

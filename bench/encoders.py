"""Are ViT and VAE faster than in PyTorch, on the same cores?  python bench/encoders.py [--small] [--out FILE.json]

Random weights of the released widths: an image of 980 x 980 through the ViT (4900 patches, 26 layers; the connector
leads to a small decoder), and the VAE's encoder and decoder at 1024 x 1024 (also in strips, where pictures of that size
are decoded so). The fastest of PyTorch's forms, found with pictures of a quarter of the side in a process of its own
(peer.py), against every engine and arithmetic of the exported graphs, alternating. Medians in milliseconds, ratios
round by round. Nothing else may run meanwhile. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines import Settings, open_engine
from bagel_engines.host_cpus import own_cpus
from bagel_engines.select import installed
from bagel_export.checkpoint.open import Checkpoint, open_checkpoint
from bagel_export.checkpoint.synthetic import RELEASED, Shape, write_checkpoint
from bagel_rt.artefact.contract import VAE_DECODER, VAE_ENCODER, VIT
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.estimate.machine import cpu
from bagel_rt.model.graphs import Graphs
from bagel_rt.model.vae_strips import decode_in_strips, in_strips
from bench.peer import TORCH, Form, Peer, best_forms, forms, spoken
from bench.timing import against, alternating, finish, kept, machine
from bench.ways import Way, exported, refused

EVERY = (VIT, VAE_DECODER, VAE_ENCODER)
# (engine, arithmetic); no int8 arithmetic for the VAE, as it rounds only what Linears multiply
GRAPHS = {
    ("openvino", "float32"): EVERY,
    ("openvino", "bfloat16"): EVERY,
    ("openvino", "int8"): (VIT,),
    ("onnxruntime", "int8-rows"): (VIT,),
    ("onnxruntime", "float32"): EVERY,
}
EXACT: Form = ("float32", False, own_cpus())
SCOUT = "small "  # before the name of a graph: the picture with which PyTorch's forms are compared
Inputs = dict[str, np.ndarray]
Run = Callable[[], Any]


def shape(small: bool) -> Shape:
    return Shape() if small else replace(Shape(), vit=RELEASED.vit, vae_base_width=128, max_latent_size=64)


def sides(small: bool) -> dict[str, tuple[str, int]]:
    """Graph and side of the picture in pixels, by name of a work."""
    vit, vae = (56, 64) if small else (980, 1024)
    whole = {VIT: vit, VAE_DECODER: vae, VAE_ENCODER: vae}
    quarter = {VIT: 14 * round(vit / 56), VAE_DECODER: max(64, vae // 4), VAE_ENCODER: max(64, vae // 4)}
    return {g: (g, side) for g, side in whole.items()} | {f"{SCOUT}{g}": (g, side) for g, side in quarter.items()}


def inputs(graph: str, side: int, patch: int, grid: int) -> Inputs:
    random = np.random.default_rng(0)
    across = side // patch
    places = np.arange(across)[:, None] * grid + np.arange(across)

    def numbers(*size: int) -> np.ndarray:
        return random.standard_normal(size, np.float32)

    if graph == VIT:
        return {"patches": numbers(across**2, 3 * patch**2).clip(-1, 1), "position_ids": places.reshape(-1)}
    if graph == VAE_DECODER:
        return {"latent": numbers(1, 16, side // 8, side // 8)}
    return {"pixels": numbers(1, 3, side, side).clip(-1, 1)}


def engine_runs(
    checkpoint: Checkpoint, folder: Path, given: Mapping[str, Inputs], precisions: Sequence[str]
) -> dict[str, dict[str, Run]]:
    """Runs on engines, by graph and way (precision of the artefact, engine, arithmetic)."""
    found: dict[str, dict[str, Run]] = {name: {} for name in given}
    known = [
        (engine, arithmetic) for engine, arithmetic in GRAPHS if engine in installed() and _here(engine, arithmetic)
    ]
    for precision, (engine, arithmetic) in product(precisions, known):
        if precision == "fp32" and arithmetic.startswith("int8"):  # rounds what 8-bit weights multiply
            continue
        way = Way(precision, arithmetic)
        exported([way], checkpoint.folder, folder)
        graphs = [name for name in given if name in GRAPHS[engine, arithmetic]]
        manifest, told = read_manifest(way.artefact(folder)), f"{engine} {arithmetic}, {precision} weights"
        opened = open_engine(engine, settings=Settings(arithmetic=arithmetic))
        for name in graphs:
            prime = {k: v[:4] for k, v in given[name].items()} if name == VIT else None
            found[name][told] = _engine_run(opened.load(manifest.graph_file(name), prime), given[name])
        if VAE_DECODER in graphs and in_strips(manifest, opened.needs, *_side(given)):
            found[VAE_DECODER][f"{told}, in strips"] = _strips_run(Graphs(manifest, opened), given[VAE_DECODER])
    return found


def _here(engine: str, arithmetic: str) -> bool:
    """Whether an engine computes in it on this CPU. bfloat16 may be emulated, at several times float32's time."""
    return (arithmetic != "bfloat16" or "bf16" in cpu()[1]) and not refused([Way("", arithmetic, engine)])


def _side(given: Mapping[str, Inputs]) -> tuple[int, int]:
    high, wide = given[VAE_DECODER]["latent"].shape[2:]
    return 8 * high, 8 * wide


def _strips_run(graphs: Graphs, arrays: Inputs) -> Run:
    def run() -> np.ndarray:
        with graphs.one_at_a_time() as part:
            *_, (_, _, pixels) = decode_in_strips(part, arrays["latent"])
        return pixels

    return run


def _engine_run(runner, arrays: Inputs) -> Run:
    return lambda: runner.run(arrays, runner.outputs)[runner.outputs[0]]


def compared(
    graph: str, engines: Mapping[str, Run], peer: Peer, among: Iterable[Form], rounds: int, folder: Path
) -> dict[str, dict[str, Any]]:
    """Time by way, and how far each result is from PyTorch's in float32."""
    best, told = best_forms(peer, f"{SCOUT}{graph}", [form for form in among if graph == VIT or form[0] != "int8"])
    exact = peer.result(graph, EXACT, folder / "exact.npy")
    for form in best.values():
        peer.run(graph, form)  # compiles
    results: dict[str, np.ndarray] = {}
    runs = {name: partial(peer.run, graph, form) for name, form in best.items()}
    rows = against(alternating(runs | kept(engines, results), rounds, warm=False), TORCH)
    for name, form in best.items():
        results[name] = peer.result(graph, form, folder / "found.npy")
        rows[name]["form"] = spoken(form)
    for way, found in results.items():
        rows[way]["relative_error"] = round(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)), 6)
    rows[TORCH]["forms_small"] = told
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small networks: shows that the benchmark runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"], metavar="NAME")
    parser.add_argument("--only", nargs="+", choices=EVERY, help="graphs (default: all)")
    parser.add_argument("--eager", action="store_true", help="of PyTorch's forms only those that are not compiled")
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    sizes, works, results = shape(args.small), sides(args.small), {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        checkpoint = open_checkpoint(write_checkpoint(folder / "checkpoint", sizes))
        names = args.only or EVERY
        given = {g: inputs(*works[g], sizes.vit.patch_size, sizes.vit.grid) for g in names}
        peer = Peer("bench.torch_encoders", str(checkpoint.folder), *(["--small"] if args.small else []))
        engines = engine_runs(checkpoint, folder, given, args.precisions)
        for name in names:
            results[name] = compared(name, engines[name], peer, forms(not args.eager), args.rounds, folder)
            print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
        peer.close()
    report = {
        "question": "milliseconds of ViT and VAE, and the ratio to PyTorch's fastest form",
        "sides": {name: works[name][1] for name in results},
        "widths": "small" if args.small else "as released",
        "rounds": args.rounds,
        "results": results,
        **machine(),
    }
    finish(report, args.out)


if __name__ == "__main__":
    main()

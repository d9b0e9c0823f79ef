"""Are ViT and VAE faster than in PyTorch, on the same cores?  python bench/encoders.py [--small] [--out FILE.json]

Random weights of the released widths: an image of 980 x 980 through the ViT (4900 patches, 26 layers; the connector
leads to a small decoder), and the VAE's encoder and decoder at 1024 x 1024 (also in strips, where pictures of that size
are decoded so). PyTorch in bfloat16 and float32 (eager) against every engine and arithmetic of the exported graphs,
alternating. Medians in milliseconds, ratios round by round to PyTorch in bfloat16. Nothing else may run meanwhile. Ends
in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from bagel_engines import Settings, open_engine
from bagel_engines.select import installed
from bagel_export.checkpoint.open import VAE_PREFIX, Checkpoint, open_checkpoint
from bagel_export.checkpoint.synthetic import RELEASED, Shape, write_checkpoint
from bagel_export.onnx.wrappers import build
from bagel_export.reference.bagel import BagelModel
from bagel_export.reference.vae import AutoEncoder
from bagel_rt.artefact.contract import VAE_DECODER, VAE_ENCODER, VIT
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.model.graphs import Graphs
from bagel_rt.model.vae_strips import decode_in_strips, in_strips
from bench.timing import against, alternating, finish, kept, machine
from bench.ways import Way, exported

EVERY = (VIT, VAE_DECODER, VAE_ENCODER)
# (engine, arithmetic); no int8 arithmetic for the VAE, as it rounds only what Linears multiply
GRAPHS = {
    ("openvino", "float32"): EVERY,
    ("openvino", "bfloat16"): EVERY,
    ("openvino", "int8"): (VIT,),
    ("onnxruntime", "float32"): EVERY,
}
DTYPES = {"torch bf16": torch.bfloat16, "torch fp32": torch.float32}
Inputs = dict[str, np.ndarray]
Run = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Sides:
    """The side of each kind of picture, in pixels."""

    vit: int
    vae: int


def shape(small: bool) -> tuple[Shape, Sides]:
    if small:
        return Shape(), Sides(56, 64)
    return replace(Shape(), vit=RELEASED.vit, vae_base_width=128, max_latent_size=64), Sides(980, 1024)


def inputs(sides: Sides, patch: int, grid: int) -> dict[str, Inputs]:
    random = np.random.default_rng(0)
    across = sides.vit // patch
    places = np.arange(across)[:, None] * grid + np.arange(across)

    def numbers(*size: int) -> np.ndarray:
        return random.standard_normal(size, np.float32)

    return {
        VIT: {"patches": numbers(across**2, 3 * patch**2).clip(-1, 1), "position_ids": places.reshape(-1)},
        VAE_DECODER: {"latent": numbers(1, 16, sides.vae // 8, sides.vae // 8)},
        VAE_ENCODER: {"pixels": numbers(1, 3, sides.vae, sides.vae).clip(-1, 1)},
    }


def torch_runs(checkpoint: Checkpoint, given: Mapping[str, Inputs]) -> dict[str, dict[str, Run]]:
    """Runs in PyTorch, by graph and dtype."""
    values = {k: torch.from_numpy(t.array()) for k, t in checkpoint.by_parameter().items()}
    found: dict[str, dict[str, Run]] = {name: {} for name in given}
    for told, dtype in DTYPES.items():
        model, vae = BagelModel(checkpoint.config), AutoEncoder(checkpoint.config.vae_base_width)
        model.load_state_dict({k: v for k, v in values.items() if not k.startswith(VAE_PREFIX)})
        vae.load_state_dict({k.removeprefix(VAE_PREFIX): v for k, v in values.items() if k.startswith(VAE_PREFIX)})
        model, vae = model.to(dtype), vae.to(dtype)
        for name, arrays in given.items():
            found[name][told] = _torch_run(build(name, model, vae), arrays)
    return found


def _torch_run(module: torch.nn.Module, arrays: Inputs) -> Run:
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}

    def run() -> np.ndarray:
        with torch.no_grad():
            return module(**tensors).numpy()

    return run


def engine_runs(
    checkpoint: Checkpoint, folder: Path, given: Mapping[str, Inputs], precisions: Sequence[str]
) -> dict[str, dict[str, Run]]:
    """Runs on engines, by graph and way (precision of the artefact, engine, arithmetic)."""
    found: dict[str, dict[str, Run]] = {name: {} for name in given}
    known = [(engine, arithmetic) for engine, arithmetic in GRAPHS if engine in installed()]
    for precision, (engine, arithmetic) in product(precisions, known):
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


def compared(runs: Mapping[str, Run], rounds: int) -> dict[str, dict]:
    """Time by way, and how far each result is from PyTorch's in float32."""
    results: dict[str, np.ndarray] = {}
    rows = against(alternating(kept(runs, results), rounds, warm=False), "torch bf16")
    exact = results["torch fp32"]
    for way, found in results.items():
        rows[way]["relative_error"] = round(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)), 6)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small networks: shows that the benchmark runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"], metavar="NAME")
    parser.add_argument("--only", nargs="+", choices=EVERY, help="graphs (default: all)")
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    sizes, sides = shape(args.small)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(write_checkpoint(Path(folder) / "checkpoint", sizes))
        given = inputs(sides, sizes.vit.patch_size, sizes.vit.grid)
        given = {name: arrays for name, arrays in given.items() if not args.only or name in args.only}
        torch_way = torch_runs(checkpoint, given)
        engine_way = engine_runs(checkpoint, Path(folder), given, args.precisions)
        for name in given:
            results[name] = compared(torch_way[name] | engine_way[name], args.rounds)
            print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    report = {
        "question": "milliseconds of ViT and VAE, and the ratio to PyTorch in bfloat16",
        "sides": {"vit": sides.vit, "vae": sides.vae},
        "widths": "small" if args.small else "as released",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rounds": args.rounds,
        "results": results,
        **machine(),
    }
    finish(report, args.out)


if __name__ == "__main__":
    main()

"""Is a layer of the 7B faster than in PyTorch, on the same cores?  python bench/layers.py [--small] [--out FILE.json]

One decoder layer of the released shape with random weights, both experts (466 M parameters): PyTorch in bfloat16
(eager) against the exported step graph on OpenVINO in several ways, alternating: a denoising branch, a text token, a
prefill. A precision alone is computed in bfloat16; "int8/int8" is int8 weights, and what they multiply rounded too.
Medians in milliseconds per layer, ratios pair by pair, relative errors against PyTorch in float32 on random weights
without outliers; for a token, the share of the machine's bandwidth at which weights are read. Nothing else may run
meanwhile. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bagel_engines import Engine, Runner, Settings, open_engine
from bagel_export.artefact.export import model_dims
from bagel_export.checkpoint.open import Checkpoint, open_checkpoint
from bagel_export.checkpoint.synthetic import RELEASED, SMALL_LLM, SMALL_VIT, Shape, write_checkpoint
from bagel_export.reference.bagel import BagelModel
from bagel_export.reference.language import GEN, DecoderLayer
from bagel_rt.artefact.contract import GEN_STEP, UND_STEP, ModelDims, graph_specs, input_shapes
from bagel_rt.artefact.example_inputs import cached
from bagel_rt.artefact.manifest import read_manifest
from bench.timing import against, alternating, finish, machine, seconds
from bench.ways import Way, exported, way

TORCH = "torch bf16"
WAYS = ("fp32", "int8", "int8/int8", "int4", "int4/int8", "w8a8")


@dataclass(frozen=True)
class Work:
    """Rows through one layer over a context of `past` tokens. `exact`: also compared with float32."""

    name: str
    und: int
    gen: int
    past: int
    exact: bool = False


WORKS = (
    Work("denoise 1024 latents, context 50", 2, 1024, 50, exact=True),
    Work("denoise 1024 latents, context 1074", 2, 1024, 1074),
    Work("denoise 4096 latents, context 50", 2, 4096, 50),
    Work("denoise 4096 latents, context 1074", 2, 4096, 1074),
    Work("one token, context 500", 1, 0, 500, exact=True),
    Work("one token, context 4000", 1, 0, 4000),
    Work("prefill of 500 tokens", 500, 0, 0),
)
SMALL_WORKS = (Work("denoise 16 latents, context 5", 2, 16, 5, exact=True), Work("one token, context 5", 1, 0, 5))


def shape(small: bool) -> Shape:
    """One layer, and as little as possible beside it."""
    llm = SMALL_LLM if small else replace(RELEASED.llm, vocab_size=SMALL_LLM.vocab_size)
    return Shape(replace(llm, num_hidden_layers=1), SMALL_VIT, dtype=torch.bfloat16)


def arrays(work: Work, model: ModelDims) -> dict[str, np.ndarray]:
    """The step graph's inputs: unit rotations, random rows of the size that layers see."""
    spec = graph_specs(model)[GEN_STEP]
    sizes = {"und_rows": work.und, "gen_rows": work.gen, "past": work.past, "pool_slots": max(1, work.past)}
    random, out = np.random.default_rng(0), {}
    for name, dims in input_shapes(spec, sizes, 2).items():
        if name == "slots":
            out[name] = np.arange(work.past)
        elif name == "mask":
            out[name] = np.tri(*dims, work.past, dtype=bool) if not work.gen else np.ones(dims, bool)
        elif name.endswith(("_cos", "_sin")):
            out[name] = np.full(dims, name.endswith("_cos"), np.float32)
        else:
            out[name] = random.standard_normal(dims).astype(np.float32)
    return out


class Torch:
    """The reference's layer on the same arrays."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype):
        model = BagelModel(checkpoint.config).to(dtype)
        state = {k: torch.from_numpy(t.array()).to(dtype) for k, t in checkpoint.tensors.items() if "vae." not in k}
        model.load_state_dict(state, strict=False)
        (self._layer,) = model.language_model.model.layers
        self._dtype = dtype

    def prepared(self, given: dict[str, np.ndarray]) -> Callable[[], list[np.ndarray]]:
        layer, t = self._layer, {k: torch.from_numpy(v) for k, v in given.items()}
        assert isinstance(layer, DecoderLayer)
        t = {k: v.to(self._dtype) if v.is_floating_point() else v for k, v in t.items()}
        halves = (t["pool"], t["pool"][len(given["pool"]) // 2 :])
        past_k, past_v = (half[: len(given["slots"])].transpose(0, 1) for half in halves)
        und_rope, gen_rope = (t["und_cos"], t["und_sin"]), (t["gen_cos"], t["gen_sin"])

        def run() -> list[np.ndarray]:
            with torch.no_grad():
                if len(given["gen"]):
                    und, gen, *_ = layer.step(t["und"], t["gen"], und_rope, gen_rope, past_k, past_v, t["mask"])
                    return [und.float().numpy(), gen.float().numpy()]
                return [layer.step_und(t["und"], und_rope, past_k, past_v, t["mask"])[0].float().numpy()]

        return run


def engine_runs(ways: Sequence[Way], folder: Path) -> dict[str, Callable]:
    """For each way a function that takes arrays and returns a run of the step graph on them. folder: its artefacts'."""
    prepared: dict[str, Callable] = {}
    for each in ways:
        engine = open_engine("openvino", settings=Settings(arithmetic=each.arithmetic))
        prepared[str(each)] = on(engine, engine.load(each.artefact(folder) / f"{GEN_STEP}.onnx"))
    return prepared


def und_bytes(folder: Path, ways: Sequence[Way]) -> dict[str, int]:
    """Bytes of the understanding expert's weights, by way and for PyTorch: what a token's row has to read.

    float32 weights are kept in 16 bits where products are computed in them.
    """
    stored = {each: read_manifest(each.artefact(folder)).weights_of(UND_STEP) for each in ways}
    found = {str(each): size // 2 if each.precision == "fp32" else size for each, size in stored.items()}
    state = BagelModel(open_checkpoint(folder / "checkpoint").config).language_model.model.layers.state_dict()
    return {TORCH: 2 * sum(v.numel() for k, v in state.items() if GEN not in k)} | found


def with_bandwidth(results: dict, works, sizes: dict[str, int], measured: float) -> None:
    """Add, for one row, GB/s of weights that were read, and the share of the machine's."""
    for work in works:
        if work.und == 1 and not work.gen:
            for name, row in results[work.name].items():
                row["weights_gb_per_s"] = round(sizes[name] / row["ms"] / 1e6, 2)
                row["share_of_bandwidth"] = round(row["weights_gb_per_s"] / measured, 2)


def on(engine: Engine, runner: Runner) -> Callable:
    """A function that takes arrays and returns a run on them, their pool in the engine's own cache as at run time."""

    def prepare(given: dict[str, np.ndarray]) -> Callable[[], list[np.ndarray]]:
        names = ("und_out", "gen_out") if len(given["gen"]) else ("und_out",)
        pool = cached(engine, given["pool"], len(given["pool"]) // max(1, len(given["slots"])))
        return lambda: list(runner.run(given | {"pool": pool}, names).values())

    return prepare


def measured(
    work: Work, model: ModelDims, prepare: Mapping[str, Callable], rounds: int, exact: Callable | None = None
) -> dict[str, dict]:
    """For each way the milliseconds, the ratio to PyTorch, and where the work asks for it the error against `exact`."""
    given = arrays(work, model)
    runs = {name: make(given) for name, make in prepare.items()}
    row = against(alternating(runs, rounds), TORCH)
    if exact and work.exact:
        wanted = exact(given)()[-1]
        inputs = given["gen" if work.gen else "und"]
        for name, run in runs.items():  # the error of what the layer adds to its rows
            apart = np.linalg.norm(run()[-1] - wanted) / np.linalg.norm(wanted - inputs)
            row[name]["relative_error"] = round(float(apart), 5)
    print(work.name, json.dumps(row), file=sys.stderr, flush=True)
    return row


def bandwidth() -> float:
    """GB/s at which this machine sums a large array."""
    values = torch.ones(1 << 28)
    return round(4 * len(values) / min(seconds(values.sum) for _ in range(5)) / 1e9, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a small layer: shows that the benchmark runs")
    parser.add_argument("--ways", nargs="+", type=way, default=[*map(way, WAYS)], metavar="PRECISION[/ARITHMETIC]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder for checkpoint and artefacts (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        checkpoint = open_checkpoint(write_checkpoint(Path(folder) / "checkpoint", shape(args.small)))
        reference = Torch(checkpoint, torch.bfloat16).prepared
        exported(args.ways, checkpoint.folder, Path(folder))
        runs = {TORCH: reference} | engine_runs(args.ways, Path(folder))
        exact = Torch(checkpoint, torch.float32).prepared
        works = SMALL_WORKS if args.small else WORKS
        results = {work.name: measured(work, model_dims(checkpoint), runs, args.rounds, exact) for work in works}
        gb_per_s = bandwidth()
        with_bandwidth(results, works, und_bytes(Path(folder), args.ways), gb_per_s)
    report = {
        "question": "milliseconds per decoder layer, and the ratio to PyTorch in bfloat16",
        "shape": "small" if args.small else "BAGEL-7B-MoT, one layer, both experts",
        "engine": str(open_engine("openvino", settings=Settings(arithmetic="bfloat16")).info),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rounds": args.rounds,
        "memory_gb_per_s": gb_per_s,
        "results": results,
        **machine(),
    }
    finish(report, args.out)


if __name__ == "__main__":
    main()

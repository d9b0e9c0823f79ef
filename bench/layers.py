"""Is a layer of the 7B faster than in PyTorch, on the same cores?  python bench/layers.py [--small] [--out FILE.json]

One decoder layer of the released shape with random weights, both experts (466 M parameters): the fastest of PyTorch's
forms, in a process of its own (peer.py), against the exported step graph in several ways, alternating: a denoising
branch, a text token, a prefill. A way is [ENGINE:]PRECISION[/ARITHMETIC]: "int8/int8" is int8 weights on OpenVINO, and
what they multiply rounded too; without an arithmetic it is bfloat16. Medians in milliseconds per layer, ratios pair by
pair, relative errors against PyTorch in float32 on random weights without outliers. Beside them the rates of PyTorch's
own products here: a work's operations at the best of them are the roof; and for a token the share of the bandwidth at
which weights are read. Nothing else may run meanwhile. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from bagel_engines import Engine, Runner, Settings, open_engine
from bagel_engines.host_cpus import own_cpus
from bagel_export.artefact.export import model_dims
from bagel_export.checkpoint.open import Checkpoint, open_checkpoint
from bagel_export.checkpoint.synthetic import RELEASED, SMALL_LLM, SMALL_VIT, Shape, write_checkpoint
from bagel_export.reference.bagel import BagelModel
from bagel_export.reference.language import DecoderLayer
from bagel_rt.artefact.contract import GEN_STEP, UND_STEP, ModelDims, graph_specs, input_shapes
from bagel_rt.artefact.example_inputs import cached
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.estimate.calibration import operations
from bagel_rt.estimate.machine import cpu
from bench.peer import TORCH, Form, Peer, best_forms, forms, spoken
from bench.timing import against, alternating, finish, machine, seconds
from bench.ways import Way, exported, refused, way

AT_ONCE = 4  # ways that are loaded and alternate with PyTorch: all at once would take over 24 GiB
EXACT: Form = ("float32", False, 1)
MIDDLING = "denoise 1024 latents, context 50"
WITH_BFLOAT16 = ("fp32", "int8/int8", "int4/int8", "w8a8", "w8a8/float32")
WITHOUT = ("fp32/float32", "int8/float32", "int8/int8", "int4/float32", "int4/int8", "w8a8/float32")
ON_ONNXRUNTIME = tuple(f"onnxruntime:{way}" for way in ("int8/int8", "int8/int8-rows", "int4/int8", "w8a8/float32"))


@dataclass(frozen=True)
class Work:
    """Rows through one layer over a context of `past` tokens.

    exact: also compared with float32. like: a shorter work whose best form of PyTorch is taken.
    """

    name: str
    und: int
    gen: int
    past: int
    exact: bool = False
    like: str = ""


WORKS = (
    Work(MIDDLING, 2, 1024, 50, exact=True),
    Work("denoise 1024 latents, context 1074", 2, 1024, 1074, like=MIDDLING),
    Work("denoise 4096 latents, context 50", 2, 4096, 50, like=MIDDLING),
    Work("denoise 4096 latents, context 1074", 2, 4096, 1074, like=MIDDLING),
    Work("one token, context 500", 1, 0, 500, exact=True),
    Work("one token, context 4000", 1, 0, 4000, like="one token, context 500"),
    Work("4 tokens at once, context 500", 4, 0, 500),
    Work("8 tokens at once, context 500", 8, 0, 500),
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

    def __init__(self, checkpoint: Checkpoint, name: str = "float32"):
        """name: float32, bfloat16, or int8, which rounds weights once and rows per tensor."""
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        model = BagelModel(checkpoint.config).to(dtype)
        state = {k: torch.from_numpy(t.array()).to(dtype) for k, t in checkpoint.tensors.items() if "vae." not in k}
        model.load_state_dict(state, strict=False)
        (layer,) = model.language_model.model.layers
        assert isinstance(layer, DecoderLayer)
        if name == "int8":
            layer = torch.ao.quantization.quantize_dynamic(layer, {torch.nn.Linear}, torch.qint8)
        self._layer, self._dtype = layer, dtype

    def prepared(self, given: dict[str, np.ndarray], compiled: bool = False) -> Callable[[], list[np.ndarray]]:
        kept = torch.compile if compiled else lambda step: step
        step, step_und = kept(self._layer.step), kept(self._layer.step_und)
        t = {k: torch.from_numpy(v) for k, v in given.items()}
        t = {k: v.to(self._dtype) if v.is_floating_point() else v for k, v in t.items()}
        halves = (t["pool"], t["pool"][len(given["pool"]) // 2 :])
        past_k, past_v = (half[: len(given["slots"])].transpose(0, 1).contiguous() for half in halves)
        und_rope, gen_rope = (t["und_cos"], t["und_sin"]), (t["gen_cos"], t["gen_sin"])

        def run() -> list[np.ndarray]:
            with torch.no_grad():
                if len(given["gen"]):
                    und, gen, *_ = step(t["und"], t["gen"], und_rope, gen_rope, past_k, past_v, t["mask"])
                    return [und.float().numpy(), gen.float().numpy()]
                return [step_und(t["und"], und_rope, past_k, past_v, t["mask"])[0].float().numpy()]

        return run


def engine_runs(ways: Sequence[Way], folder: Path, said: dict[str, str] | None = None) -> dict[str, Callable]:
    """For each way a function that takes arrays and returns a run of the step graph on them. folder: its artefacts'.

    said: takes what each engine says of itself once the graph is loaded.
    """
    prepared: dict[str, Callable] = {}
    for each in ways:
        engine = open_engine(each.backend, settings=Settings(arithmetic=each.arithmetic))
        prepared[str(each)] = on(engine, engine.load(each.artefact(folder) / f"{GEN_STEP}.onnx"))
        if said is not None:
            said[str(each)] = str(engine.info)
    return prepared


def und_bytes(folder: Path, ways: Sequence[Way]) -> dict[str, int]:
    """Bytes of the understanding expert's weights, by way and for PyTorch: what a token's row has to read.

    float32 weights are kept in 16 bits where products are computed in them.
    """
    stored = {each: read_manifest(each.artefact(folder)).weights_of(UND_STEP) for each in ways}
    halved = {each for each in ways if each.precision == "fp32" and each.arithmetic == "bfloat16"}
    return {str(each): size // 2 if each in halved else size for each, size in stored.items()}


def with_bandwidth(results: dict, works, sizes: dict[str, int], measured: float) -> None:
    """Add, for one row, GB/s of weights that were read, and the share of the machine's."""
    for work in works:
        if work.und == 1 and not work.gen:
            for name, row in ((name, row) for name, row in results[work.name].items() if name in sizes):
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
    work: Work,
    model: ModelDims,
    prepare: Mapping[str, Callable],
    rounds: int,
    exact: np.ndarray | None = None,
    peer: Peer | None = None,
    forms: Mapping[str, Form] = MappingProxyType({}),
) -> dict[str, dict]:
    """For each way the milliseconds, the ratio to TORCH, and the error against `exact`, the last output in float32.

    peer: runs the forms, by name, TORCH among them, which is one of the ways otherwise.
    """
    given = arrays(work, model)
    runs = {name: make(given) for name, make in prepare.items()}
    if peer is not None:
        runs = {name: partial(peer.run, work.name, form) for name, form in forms.items()} | runs
    row = against(alternating(runs, rounds), TORCH)
    if exact is not None:
        for name in prepare:
            row[name]["relative_error"] = distance(work, model, runs[name]()[-1], exact)
    print(work.name, json.dumps(row), file=sys.stderr, flush=True)
    return row


def distance(work: Work, model: ModelDims, found: np.ndarray, exact: np.ndarray) -> float:
    """Relative L2 of what a layer adds to its rows."""
    inputs = arrays(work, model)["gen" if work.gen else "und"]
    return round(float(np.linalg.norm(found - exact) / np.linalg.norm(exact - inputs)), 5)


def bandwidth() -> float:
    """GB/s at which this machine sums a large array."""
    values = torch.ones(1 << 28)
    return round(4 * len(values) / min(seconds(values.sum) for _ in range(5)) / 1e9, 2)


def rates() -> dict[str, float]:
    """GFLOP/s (GOP/s) of a product of 1024 rows with one of the layer's weights, at best, by number format: PyTorch's,
    and ONNX Runtime's of unsigned rows and signed weights."""
    rows, weights = torch.ones(1024, 3584), torch.ones(3584, 18944)
    products: dict[str, Callable] = {"float32": lambda: rows @ weights}
    if "bf16" in cpu()[1]:
        halved = rows.bfloat16(), weights.bfloat16()
        products["bfloat16"] = lambda: halved[0] @ halved[1]
    if "vnni" in cpu()[1] or "amx" in cpu()[1]:  # elsewhere PyTorch multiplies bytes one by one, for a minute
        whole = rows.to(torch.int8), weights.to(torch.int8)
        products["int8"] = lambda: torch._int_mm(*whole)
    products["onnxruntime int8"] = integer_product(rows.numpy().astype(np.uint8), weights.numpy().astype(np.int8))
    return {
        name: round(2 * 1024 * weights.numel() / min(seconds(run) for _ in range(3)) / 1e9, 1)
        for name, run in products.items()
    }


def integer_product(rows: np.ndarray, weights: np.ndarray) -> Callable[[], Any]:
    """A run of ONNX Runtime's MatMulInteger alone."""
    node = helper.make_node("MatMulInteger", ["rows", "weights"], ["out"])
    given = helper.make_tensor_value_info("rows", TensorProto.UINT8, ["n", weights.shape[0]])
    gives = helper.make_tensor_value_info("out", TensorProto.INT32, ["n", weights.shape[1]])
    graph = helper.make_graph([node], "product", [given], [gives], [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = own_cpus()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return lambda: session.run(None, {"rows": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a small layer: shows that the benchmark runs")
    parser.add_argument("--ways", nargs="+", type=way, default=None, metavar="PRECISION[/ARITHMETIC]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--works", nargs="+", help="names of works, or their beginnings (default: all)")
    parser.add_argument("--eager", action="store_true", help="of PyTorch's forms only those that are not compiled")
    parser.add_argument(
        "--work", type=Path, help="folder that keeps checkpoint and artefacts (default: a temporary one)"
    )
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    if args.work:
        args.work.mkdir(parents=True, exist_ok=True)
    with nullcontext(args.work) if args.work else tempfile.TemporaryDirectory() as folder:
        report = compared(args, Path(folder))
    finish(report, args.out)


def compared(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The report. folder: of checkpoint and artefacts, which are made where they are not there."""
    if not (folder / "checkpoint").exists():
        write_checkpoint(folder / "checkpoint", shape(args.small))
    checkpoint, ways = open_checkpoint(folder / "checkpoint"), args.ways or [*map(way, default_ways())]
    without = refused(ways)
    ways = [each for each in ways if each not in without]
    dims, wanted = model_dims(checkpoint), SMALL_WORKS if args.small else WORKS
    works = [work for work in wanted if not args.works or work.name.startswith(tuple(args.works))]
    works += [work for work in wanted if work.name in {w.like for w in works} and work not in works]
    exported(ways, checkpoint.folder, folder)
    peer, said = Peer("bench.torch_layer", str(checkpoint.folder), *(["--small"] if args.small else [])), {}
    try:
        results = beside_peer(Beside(peer, dims, folder, args.rounds), works, ways, not args.eager, said)
    finally:
        peer.close()
    gb_per_s, inner = bandwidth(), shape(args.small).llm.intermediate_size
    with_bandwidth(results, works, und_bytes(folder, ways), gb_per_s)
    return {
        "question": "milliseconds per decoder layer, and the ratio to PyTorch's fastest form",
        "shape": "small" if args.small else "BAGEL-7B-MoT, one layer, both experts",
        "rounds": args.rounds,
        "memory_gb_per_s": gb_per_s,
        "rates_gop_per_s": rates(),
        "operations_g": {w.name: round(operations(dims, inner, w.und + w.gen, w.past) / 1e9, 1) for w in works},
        "engines": said,
        "refused_here": {str(each): reason for each, reason in without.items()},
        "results": results,
        **machine(),
    }


@dataclass(frozen=True)
class Beside:
    """What every measurement beside PyTorch needs. folder: takes its results."""

    peer: Peer
    dims: ModelDims
    folder: Path
    rounds: int


def beside_peer(
    beside: Beside, works: Sequence[Work], ways: Sequence[Way], compiled: bool, said: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """By work and way: times, ratios and errors, PyTorch's forms first. said: takes what engines say of themselves."""
    peer, folder = beside.peer, beside.folder
    chosen = {work.name: best_forms(peer, work.name, forms(compiled)) for work in works if not work.like}
    exact = {work.name: peer.result(work.name, EXACT, folder / "exact.npy") for work in works if work.exact}
    results: dict[str, dict[str, Any]] = {}
    for group in (ways[i : i + AT_ONCE] for i in range(0, len(ways), AT_ONCE)):
        runs = engine_runs(group, folder, said)
        for work in works:
            best, _ = chosen[work.like or work.name]
            row = measured(work, beside.dims, runs, beside.rounds, exact.get(work.name), peer, best)
            results[work.name] = row | results.get(work.name, {})  # PyTorch's times stay those of the first group
        del runs
    for work in works:
        best, told = chosen[work.like or work.name]
        results[work.name] = with_forms(beside, work, results[work.name], best, exact.get(work.name))
        results[work.name][TORCH] |= {} if work.like else {"forms": told}
    return results


def with_forms(
    beside: Beside, work: Work, row: dict[str, Any], best: Mapping[str, Form], exact: np.ndarray | None
) -> dict[str, Any]:
    """A work's row with PyTorch's forms at its beginning, named, and with their errors."""
    row = {name: row[name] for name in (*best, *(name for name in row if name not in best))}
    for name, form in best.items():
        row[name]["form"] = spoken(form)
        if exact is not None:
            found = beside.peer.result(work.name, form, beside.folder / "found.npy")
            row[name]["relative_error"] = distance(work, beside.dims, found, exact)
    return row


def default_ways() -> Sequence[str]:
    return (*(WITH_BFLOAT16 if "bf16" in cpu()[1] else WITHOUT), *ON_ONNXRUNTIME)


if __name__ == "__main__":
    main()

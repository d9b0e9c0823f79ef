"""What does a CUDA card make of it?  python bench/gpu.py --out FILE.json   (anywhere: --small --device cpu)

In order: of each --artefact (of the recorded checkpoint) the forms of its step graphs and the recorded cases with and
without CUDA graphs; then PyTorch (bf16, eager with SDPA, and compiled) and ONNX Runtime (with and without CUDA graphs)
side by side on random weights of the released size: denoising branches, a text token, the ViT, the VAE's decoder, each
with its kernels and its share of the card's own measured matrix rate and bandwidth, whole pictures, and the workload
that vLLM-Omni publishes (512 x 512, 20 steps); at last TensorRT's plans of each --artefact. Runs unattended: what fails
is recorded and the rest goes on; results are written after every measurement, so a run that is cut off leaves what it
had. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bagel_engines.diagnosis import cuda_state, packages
from bagel_export.artefact.export import export, model_dims
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.shards import VAE_WEIGHTS, WEIGHTS
from bagel_export.checkpoint.synthetic import RELEASED, SMALL_LLM, SMALL_VIT, Shape, byte_tokenizer, write_configs
from bagel_export.config import BagelConfig, LLMConfig, ViTConfig
from bagel_export.onnx import wrappers
from bagel_export.reference.bagel import BagelModel
from bagel_export.reference.vae import AutoEncoder
from bagel_rt.artefact import contract
from bagel_rt.artefact.contract import ModelDims, graph_specs, input_shapes
from bagel_rt.artefact.manifest import ResizeRule
from bench.card_cases import cases_part
from bench.card_forms import forms_part
from bench.card_kernels import kernels
from bench.card_plans import plans_part
from bench.released import filled, hollow_checkpoint
from bench.timing import machine

DEVIATION = 0.02  # standard deviation of the random weights
ROUNDS = 5


@dataclass(frozen=True)
class Scale:
    """What is measured: contexts and latents in tokens, pictures in pixels."""

    llm: LLMConfig
    vit: ViTConfig
    side: int
    vit_side: int
    base_width: int
    latents: tuple[int, ...]
    contexts: tuple[int, ...]
    text_contexts: tuple[int, ...]
    points: int
    public: tuple[int, int]  # side and steps of the published workload


def scale(small: bool, layers: int) -> Scale:
    if small:
        return Scale(SMALL_LLM, SMALL_VIT, 64, 112, 32, (16,), (50,), (50,), 4, (32, 3))
    llm = replace(RELEASED.llm, num_hidden_layers=layers)
    return Scale(llm, RELEASED.vit, 1024, 980, 128, (1024, 4096), (50, 9000), (500, 9000), 50, (512, 20))


class Report:
    """Results by name, on disk after each."""

    def __init__(self, path: Path | None, facts: dict[str, Any], seconds: float = math.inf):
        """seconds: nothing is begun later than so many after now."""
        self.path, self.values = path, {"bench": "gpu", **facts, "results": {}}
        self._until = time.monotonic() + seconds

    @property
    def late(self) -> bool:
        return time.monotonic() > self._until

    def part(self, name: str, work: Callable[[], None]) -> None:
        """Do a part, which adds results; one that breaks off is a result, too, and the others go on."""
        if self.late:
            self.add(name, lambda: None)
            return
        try:
            work()
        except Exception:
            told = traceback.format_exc()[-600:]
            self.add(name, lambda: {"failed": told})

    def add(self, name: str, make: Callable[[], Any]) -> Any:
        """Measure; a failure is a result too, and so is what there was no time for."""
        start = time.monotonic()
        try:
            value = {"skipped": "no time left"} if self.late else make()
        except Exception as error:
            told = traceback.format_exc().strip().splitlines()[-1]
            value = {"failed": told[:400], "kind": type(error).__name__}
        self.values["results"][name] = value
        self.values["results"][name + " took_s"] = round(time.monotonic() - start, 1)
        print(name, json.dumps(value, default=str), file=sys.stderr, flush=True)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.values, indent=1, default=str) + "\n", encoding="utf-8")
        return value


class Clock:
    """Seconds of work on a device, which returns before it is done. device: PyTorch's, its CPU where it sees no card
    (over a CUDA that computes nothing, say)."""

    def __init__(self, name: str):
        self.device = torch.device(name if torch.cuda.is_available() else "cpu")

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def median(self, work: Callable[[], Any], rounds: int = ROUNDS) -> float:
        work()
        taken = []
        for _ in range(rounds):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    def used(self) -> float:
        """GiB taken on the device by everybody."""
        if self.device.type != "cuda":
            return 0.0
        free, total = torch.cuda.mem_get_info(self.device)
        return (total - free) / 2**30


def roof(clock: Clock, small: bool) -> dict[str, float]:
    """The card's own rates: bf16 matrix products in TFLOP/s, copies in GB/s (read and written)."""
    n = 512 if small else 8192
    a, b = (torch.randn(n, n, device=clock.device, dtype=torch.bfloat16) for _ in range(2))
    block = torch.empty((1 << 24) if small else (1 << 30), device=clock.device, dtype=torch.uint8)
    other = torch.empty_like(block)
    product, copy = clock.median(lambda: a @ b), clock.median(lambda: other.copy_(block))
    found = {"tflops": 2 * n**3 / product / 1e12, "gbytes_per_s": 2 * block.nbytes / copy / 1e9}
    return {name: float(f"{rate:.4g}") for name, rate in found.items()}  # never 0: shares are of it


def random_model(sizes: Scale, device: torch.device) -> tuple[BagelModel, AutoEncoder]:
    """Full-size weights made where they are used."""
    config = BagelConfig(
        sizes.llm, sizes.vit, max_latent_size=sizes.side // 16, vit_max_num_patch_per_side=sizes.vit.grid
    )
    with torch.device("meta"):
        model, vae = BagelModel(config).eval(), AutoEncoder(sizes.base_width).eval()
    made = []
    for module in (model, vae):
        module = module.to(torch.bfloat16).to_empty(device=device).requires_grad_(False)
        for name, values in module.state_dict().items():
            values.fill_(1.0) if "norm" in name and name.endswith("weight") else values.normal_(0.0, DEVIATION)
        made.append(module)
    return made[0], made[1]


def resize_rules(sizes: Scale) -> tuple[ResizeRule, ResizeRule]:
    """For the VAE and for the ViT."""
    return ResizeRule(sizes.side, sizes.side // 2, 16), ResizeRule(sizes.vit_side, sizes.vit_side // 2, 14)


def write_official(model: BagelModel, vae: AutoEncoder, sizes: Scale, folder: Path) -> Path:
    """The same weights as a checkpoint in the official layout."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    write_configs(folder, sizes.llm, sizes.vit, *resize_rules(sizes))
    byte_tokenizer(sizes.llm.vocab_size).save(str(folder / "tokenizer.json"))
    for module, name in ((model, WEIGHTS), (vae, VAE_WEIGHTS)):
        save_file({k: v.contiguous().cpu() for k, v in module.state_dict().items()}, folder / name)
    return folder


def step_inputs(dims: ModelDims, graph: str, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Well-formed random inputs of a graph at these sizes; the pool is as large as the context needs."""
    spec = graph_specs(dims)[graph]
    halves = 2 * dims.num_hidden_layers
    shapes = input_shapes(spec, {"pool_slots": max(16, sizes.get("past", 0)), **sizes}, halves)
    random = np.random.default_rng(0)
    arrays = {}
    for tensor in spec.inputs:
        shape = shapes[tensor.name]
        if tensor.name == "slots" or tensor.name == "position_ids":
            arrays[tensor.name] = np.arange(shape[0])
        elif tensor.name == "mask":
            arrays[tensor.name] = np.ones(shape, bool)
        elif tensor.name == "time":
            arrays[tensor.name] = np.full(shape, 0.7, np.float32)
        else:
            arrays[tensor.name] = random.standard_normal(shape, np.float32) * np.float32(0.1)
    return arrays


def cases(sizes: Scale) -> Iterator[tuple[str, str, dict[str, int]]]:
    """(name, graph, sizes)."""
    for latents in sizes.latents:
        for context in sizes.contexts if latents == max(sizes.latents) else sizes.contexts[:1]:
            name = f"denoise branch, {latents} latents, context {context}"
            yield name, contract.GEN_STEP, {"und_rows": 2, "gen_rows": latents, "past": context}
    for context in sizes.text_contexts:
        yield f"text token, context {context}", contract.UND_STEP, {"und_rows": 1, "past": context}
    yield f"ViT, {sizes.vit_side} px", contract.VIT, {"patches": (sizes.vit_side // 14) ** 2}
    side = sizes.side // 8
    yield f"VAE decode, {sizes.side} px", contract.VAE_DECODER, {"latent_height": side, "latent_width": side}


def work_of(graph: str, dims: ModelDims, sizes: Scale, at: dict[str, int]) -> dict[str, float]:
    """TFLOP and weight GB of a step (bf16), 0 where they are not counted."""
    if graph not in (contract.GEN_STEP, contract.UND_STEP):
        return {}
    h, d, kv, inner = dims.hidden_size, dims.head_dim, dims.num_key_value_heads, sizes.llm.intermediate_size
    per_layer = 2 * h * h + 2 * h * kv * d + 3 * h * inner  # weights of one expert's layer
    rows, keys = at["und_rows"] + at.get("gen_rows", 0), at["und_rows"] + at.get("gen_rows", 0) + at["past"]
    layers, experts = dims.num_hidden_layers, 2 if graph == contract.GEN_STEP else 1
    attention = 4 * rows * keys * dims.num_attention_heads * d
    return {
        "tflop": layers * (2 * rows * per_layer + attention) / 1e12,
        "weight_gb": layers * experts * per_layer * 2 / 1e9,
    }


def measured(seconds: float, work: dict[str, float], rates: dict[str, float]) -> dict[str, float]:
    out = {"ms": round(1e3 * seconds, 3)}
    if work and "tflops" in rates:
        out["share_of_matrix_rate"] = round(work["tflop"] / seconds / rates["tflops"], 3)
        out["share_of_bandwidth"] = round(work["weight_gb"] / seconds / rates["gbytes_per_s"], 3)
    return out


def torch_part(
    report: Report, sizes: Scale, dims: ModelDims, model, vae, clock: Clock, rates: dict, fuse: bool
) -> None:
    for name, graph, at in cases(sizes):
        inputs = step_inputs(dims, graph, at)
        module = wrappers.build(graph, model, vae)
        spec = graph_specs(dims, "bfloat16")[graph]
        given = [torch.from_numpy(inputs[t.name]).to(clock.device) for t in spec.inputs]
        given = [g.bfloat16() if t.dtype == "bfloat16" else g for g, t in zip(given, spec.inputs, strict=True)]
        work = work_of(graph, dims, sizes, at)

        def eager(module=module, given=given) -> Any:
            with torch.no_grad():
                return module(*given)

        report.add(f"torch bf16 eager: {name}", lambda e=eager, w=work: measured(clock.median(e), w, rates))
        if fuse and graph == contract.GEN_STEP:
            compiled = torch.compile(module)

            def run(module=compiled, given=given) -> Any:
                with torch.no_grad():
                    return module(*given)

            report.add(f"torch bf16 compiled: {name}", lambda r=run, w=work: measured(clock.median(r), w, rates))
    if clock.device.type == "cuda":
        report.add("torch peak memory, GiB", lambda: round(torch.cuda.max_memory_allocated(clock.device) / 2**30, 2))


@contextmanager
def opened(model: Path, device: str, cuda_graphs: bool = False):
    """The artefact on ONNX Runtime: on CUDA, or the same engine over the machine's own memory."""
    import bagel_rt
    from bagel_engines.onnxruntime.device_engine import on_host
    from bagel_rt.api import Bagel
    from bagel_rt.artefact.manifest import read_manifest
    from bagel_rt.model.graphs import Graphs

    if device != "cpu":
        with bagel_rt.load(model, "onnxruntime", device, cache_tokens=16384, cuda_graphs=cuda_graphs) as bagel:
            yield bagel
    else:
        manifest = read_manifest(model)
        with Bagel(manifest, Graphs(manifest, on_host(cuda_graphs)), 4096) as bagel:
            yield bagel


def ort_part(
    report: Report, sizes: Scale, dims: ModelDims, model: Path, device: str, clock: Clock, rates: dict, played: bool
) -> None:
    """played: denoising steps as CUDA graphs. On a CPU the same code runs, with nothing captured."""
    from bagel_engines import repeating

    who = "onnxruntime, CUDA graphs" if played else "onnxruntime"
    with opened(model, device, played) as bagel:
        engine, names = bagel.graphs.engine, graph_specs(dims, bagel.manifest.arithmetic)
        for name, graph, at in cases(sizes):

            def run(graph=graph, at=at) -> dict[str, float]:
                arrays = step_inputs(dims, graph, at)
                pool = arrays.pop("pool", None)
                held = {key: engine.hold(np.ascontiguousarray(value)) for key, value in arrays.items()}
                if pool is not None:
                    slots = pool.shape[0] // (2 * dims.num_hidden_layers)
                    row = (dims.num_key_value_heads, dims.head_dim)
                    kept = np.dtype(np.uint16 if bagel.manifest.arithmetic == "bfloat16" else np.float32)
                    held["pool"] = engine.cache(2 * dims.num_hidden_layers, slots, row, kept).tensor
                outputs = tuple(t.name for t in names[graph].outputs)
                with repeating(engine):
                    for _ in range(2):  # the first run is ordinary, the second is captured
                        bagel.graphs(graph, outputs, outputs, **held)
                    once = lambda: bagel.graphs(graph, outputs, outputs, **held)  # noqa: E731
                    seconds = clock.median(once)
                    launched = kernels(once)
                return measured(seconds, work_of(graph, dims, sizes, at), rates) | {"kernels": launched}

            if not played or graph == contract.GEN_STEP:
                report.add(f"{who}: {name}", run)
        options = {"seed": 1, "num_timesteps": sizes.points}
        source = np.zeros((sizes.side, sizes.side, 3), np.uint8)

        def whole(work: Callable[[], Any]) -> dict[str, Any]:
            start = time.perf_counter()
            drawn = work()
            return {"s": round(time.perf_counter() - start, 3), "finite": bool(np.isfinite(drawn.latent).all())}

        for cache in (None, "taylorseer"):
            told = "with step cache" if cache else "without step cache"
            for what, work in (
                ("text to image", lambda c=cache: bagel.generate("a red cube", step_cache=c, **options)),
                ("edit", lambda c=cache: bagel.edit(source, "make it red", step_cache=c, **options)),
            ):
                report.add(f"{who}: {what}, {sizes.side} px, {told}", lambda w=work: whole(w))
        side, steps = sizes.public
        public = {"seed": 1, "height": side, "width": side, "num_timesteps": steps + 1}  # so many points, a step fewer
        shown = np.zeros((side, side, 3), np.uint8)
        for what, work in (
            ("text to image", lambda: bagel.generate("a red cube", **public)),
            ("edit", lambda: bagel.edit(shown, "make it red", **public)),
        ):
            report.add(
                f"{who}: published workload, {what}, {side} px, {steps} steps",
                lambda w=work: [whole(w), whole(w)][1],  # a server is warm, too
            )
        if not played:
            report.add(
                "onnxruntime: answer of 64 tokens",
                lambda: round(clock.median(lambda: bagel.ask("what is this?", max_tokens=64), 1), 3),
            )
        report.add(f"{who}: engine", lambda: bagel.engine)  # says where graphs could not be captured
        report.add(f"{who}: memory taken on the device, GiB", lambda: round(clock.used(), 2))


def precision_part(report: Report, device: str, checkpoints: list[Path], folder: Path) -> None:
    """bf16 (fp16 on a CPU) against float32 on checkpoints that mean something: distance of the latents."""
    low = "bf16" if device != "cpu" else "fp16"
    for checkpoint in checkpoints:

        def distance(checkpoint: Path = checkpoint) -> dict[str, float]:
            latents = []
            for precision in ("fp32", low):
                out = folder / f"{checkpoint.name}-{precision}"
                for _ in export(checkpoint, out, precision=precision, verify=False, overwrite=True):
                    pass
                with opened(out, device) as bagel:
                    latents.append(bagel.generate("a red circle", seed=1, height=64, width=64).latent)
            apart = np.linalg.norm(latents[1] - latents[0]) / np.linalg.norm(latents[0])
            return {"relative_l2_of_latents": float(f"{apart:.3e}")}

        report.add(f"{low} against float32: {checkpoint.name}", distance)


def facts(args: argparse.Namespace) -> dict[str, Any]:
    import onnxruntime

    seen = args.device != "cpu" and torch.cuda.is_available()
    device = torch.cuda.get_device_name(args.device) if seen else "CPU" if args.device == "cpu" else "no card"
    versions = {"python": platform.python_version(), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    return {
        "machine": f"{machine()['machine']}, {device}",
        "versions": versions | packages(),
        "cuda": card_facts() if args.device != "cpu" else {},
        "commit": commit(),
        "command": "python bench/gpu.py " + " ".join(sys.argv[1:]),
        "layers": args.layers,
    }


def card_facts() -> dict[str, Any]:
    """Driver, CUDA, cuDNN and devices, as far as they can be told."""
    try:
        return cuda_state()
    except Exception as error:
        return {"state": f"{type(error).__name__}: {error}"}


def commit() -> str:
    """Of the project: what bench/gpu_pack.py wrote down, or git says."""
    root = Path(__file__).resolve().parents[1]
    if (kept := root / "COMMIT").is_file():
        return kept.read_text(encoding="utf-8").strip()
    told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the benchmark itself")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--work", type=Path, default=Path("/tmp/bagel-gpu"), help="folder for weights (60 GB)")
    parser.add_argument("--ort-site", type=Path, help="folder of an unpacked onnxruntime-gpu, with ort_gpu_env.py")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="for bf16 against float32")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--artefact", type=Path, action="append", default=[], help="its forms are compared first")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin nothing later than this")
    parser.add_argument("--released", type=Path, help="graphs of the released size without numbers (bench/released.py)")
    parser.add_argument("--only-forms", action="store_true", help="nothing else: without PyTorch on the device")
    args = parser.parse_args()
    if args.ort_site:
        sys.path.insert(0, str(args.ort_site))
        import ort_gpu_env  # type: ignore[import-not-found]  # noqa: F401
    report = Report(args.out, facts(args), args.seconds)
    for name, part in parts(args, report):
        report.part(name, part)
    print(json.dumps(report.values, default=str))


def parts(args: argparse.Namespace, report: Report) -> Iterator[tuple[str, Callable[[], None]]]:
    """What is measured, in order; each adds results of its own."""
    for artefact in args.artefact:
        yield f"forms of {artefact.name}", lambda a=artefact: forms_part(report.add, a, args.device)
    if args.only_forms:
        return
    on_device = lambda model, played: opened(model, args.device, played)  # noqa: E731
    for artefact in args.artefact:
        yield f"recorded cases of {artefact.name}", lambda a=artefact: cases_part(report.add, a, on_device)
    yield "layers and pictures", lambda: full_part(args, report)
    yield "precisions", lambda: precision_part(report, args.device, args.checkpoint, args.work)
    for artefact in args.artefact if args.device != "cpu" else ():
        yield f"TensorRT of {artefact.name}", lambda a=artefact: plans_part(report.add, a)


def full_part(args: argparse.Namespace, report: Report) -> None:
    """PyTorch, then ONNX Runtime, on weights of the size asked for."""
    sizes, clock = scale(args.small, args.layers), Clock(args.device)
    rates = report.add("roof", lambda: roof(clock, args.small))
    model, vae = random_model(sizes, clock.device)
    args.work.mkdir(parents=True, exist_ok=True)
    dims = dims_of(sizes)
    torch_part(report, sizes, dims, model, vae, clock, rates, not (args.no_compile or args.small))
    artefact = args.work / "model"
    if args.released is not None:
        report.add("numbers of the released size made", lambda: str(filled(args.released, artefact)))
    elif not report.late:
        exported(model, vae, sizes, args.work, artefact, "fp32" if args.device == "cpu" else "bf16")
    del model, vae
    if clock.device.type == "cuda":
        torch.cuda.empty_cache()
    for played in (False, True):
        name = f"onnxruntime, CUDA graphs {played}"
        report.part(name, lambda p=played: ort_part(report, sizes, dims, artefact, args.device, clock, rates, p))


def dims_of(sizes: Scale) -> ModelDims:
    """Of a checkpoint of that size, from its configs alone."""
    shape = Shape(sizes.llm, sizes.vit, sizes.side // 16, sizes.base_width, *resize_rules(sizes))
    with tempfile.TemporaryDirectory() as folder:
        return model_dims(open_checkpoint(hollow_checkpoint(Path(folder), shape)))


def exported(model: BagelModel, vae: AutoEncoder, sizes: Scale, work: Path, out: Path, precision: str) -> None:
    checkpoint = write_official(model, vae, sizes, work / "checkpoint")
    for _ in export(checkpoint, out, overwrite=True, verify=False, precision=precision):
        pass


if __name__ == "__main__":
    main()

"""What a card makes of the step graphs' two forms, the portable one and the one for CUDA: same numbers? how fast?

For bench/gpu.py, before everything that takes long. The portable graph on ONNX Runtime's CPU is the measure; an
artefact in bfloat16 has none there and is compared with its own portable graph on the card.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines import EngineFailure, open_engine, repeating
from bagel_engines.device import cuda
from bagel_engines.settings import Settings
from bagel_rt.artefact.manifest import Manifest, read_manifest

SLOTS, PAST, LATENTS, ROUNDS = 512, 300, 256, 20
CALLS = {"token": ("und_step", 1, "causal"), "text": ("und_step", 64, "causal"), "image": ("und_step", 64, "all")}
CALLS |= {"denoising": ("gen_step", 2, "all")}
CACHES = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


def inputs(manifest: Manifest, graph: str, und: int, kind: str) -> dict[str, np.ndarray]:
    """Random rows over a random context, everything as a call gives it."""
    model, random = manifest.model, np.random.default_rng(7)
    gen = LATENTS if graph == "gen_step" else 0
    normal = lambda *shape: random.standard_normal(shape, dtype=np.float32)  # noqa: E731
    angles = np.tile(random.random((und + gen, model.head_dim // 2), np.float32) * 6, 2)
    keys = PAST + und + gen
    mask = np.ones((und, keys), bool) if kind == "all" else np.tri(und, keys, PAST, dtype=bool)
    pool = normal(2 * model.num_hidden_layers * SLOTS, model.num_key_value_heads, model.head_dim)
    if manifest.arithmetic == "bfloat16":
        pool = (pool.view(np.uint32) >> 16).astype(np.uint16)
    found = {"und": normal(und, model.hidden_size), "und_cos": np.cos(angles[:und]), "und_sin": np.sin(angles[:und])}
    if gen:
        found |= {"gen": normal(gen, model.hidden_size)}
        found |= {"gen_cos": np.cos(angles[und:]), "gen_sin": np.sin(angles[und:])}
    slots = random.permutation(SLOTS)[:PAST].astype(np.int64)
    return found | {"pool": pool.astype(CACHES[manifest.arithmetic], copy=False), "slots": slots, "mask": mask}


def forms_part(add: Callable[[str, Callable[[], Any]], Any], artefact: Path, device: str) -> None:
    """add: makes a result of a name and a function, whatever comes of it."""
    manifest = read_manifest(artefact)
    for name, (graph, und, kind) in CALLS.items():
        given = inputs(manifest, graph, und, kind)
        output = "gen_out" if graph == "gen_step" else "und_out"
        measure: list[np.ndarray] = []
        if manifest.arithmetic != "bfloat16":
            engine = open_engine("onnxruntime", "cpu", Settings(stated=manifest.arithmetic))
            measure.append(engine.load(artefact / f"{graph}.onnx").run(given, (output,))[output])
        for form in ("portable", "for CUDA", "for CUDA, CUDA graphs"):

            def run(form=form, graph=graph, given=given, output=output, measure=measure) -> dict[str, Any]:
                return _measured(artefact, manifest, form, graph, given, output, device, measure)

            add(f"{artefact.name}: {name}, {form}", run)


def _measured(
    artefact: Path,
    manifest: Manifest,
    form: str,
    graph: str,
    given: dict[str, np.ndarray],
    output: str,
    device: str,
    measure: list[np.ndarray],
) -> dict[str, Any]:
    recorded = form.endswith("CUDA graphs")
    engine: Any = open_engine("onnxruntime", device, Settings(stated=manifest.arithmetic, cuda_graphs=recorded))
    if form == "portable":
        engine._fused, engine._joins = None, False
    before = _taken()
    runner = engine.load(artefact / f"{graph}.onnx")
    held = {name: engine.hold(array) for name, array in given.items()}
    with repeating(engine):
        result = runner.run(held, (output,))[output]
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            result = runner.run(held, (output,))[output]
            times.append(time.perf_counter() - start)
    measure or measure.append(result)
    apart = float(np.linalg.norm(result - measure[0]) / max(float(np.linalg.norm(measure[0])), 1e-30))
    taken = _taken() - before
    engine.release()
    return {
        "ms": round(statistics.median(times) * 1e3, 4),
        "finite": bool(np.isfinite(result).all()),
        "relative_l2": float(f"{apart:.3e}"),
        "device_MiB": round(taken / 2**20, 1),
        "engine": str(engine.info),
    }


def _taken() -> int:
    """Bytes taken on the device by everybody."""
    try:
        free, total = cuda.checked(cuda.runtime().cudaMemGetInfo(), "tell the free memory")
    except EngineFailure:
        return 0
    return total - free

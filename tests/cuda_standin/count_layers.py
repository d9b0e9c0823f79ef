"""Counts what a layer of the step graphs takes on ONNX Runtime's CUDA provider over the stand-in, before and after.

count_layers.py ARTEFACT      one JSON line for each graph and form; at least three layers, so that one repeats

portable: the artefact's graph; fused: what the engine makes of it (engines/bagel_engines/onnxruntime/cuda_form.py). A
layer is what comes again and again for the longest time. Of the VAE's graphs there is the whole, and what kernels there
are.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import bindings
import numpy as np
from run_graphs import counts, journal

PAST = 40
TOGETHER = "und_step of four callers"
LAUNCHES = ("kernel", "product", "convolution", "copy", "set", "softmax", "reduction")


def layer(lines: list[str]) -> Counter[str]:
    """What repeats, counted by kind. A convolution of a step graph is cuDNN's attention."""
    words = [line.split() for line in lines if line.split()[0] in LAUNCHES]
    steps = [tuple(w[:2]) if w[0] in ("kernel", "copy") else (w[0],) for w in words]
    found = max((_stretch(steps, n) for n in range(2, len(steps) // 2 + 1)), key=lambda one: one[0])
    _, length, at = found
    return Counter("attention" if s[0] == "convolution" else s[0] for s in steps[at : at + length])


def _stretch(steps: list[tuple], length: int) -> tuple[int, int, int]:
    """The longest stretch of steps that are those `length` steps later: (how long, length, where it begins)."""
    best, start = 0, 0
    run = 0
    for i in range(len(steps) - length):
        run = run + 1 if steps[i] == steps[i + length] else 0
        if run > best:
            best, start = run, i - run + 1
    return best, length, start


def inputs(graph: str, manifest: object, rows: int) -> dict[str, np.ndarray]:
    model = manifest.model  # type: ignore[attr-defined]
    cache = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}[manifest.arithmetic]  # type: ignore
    und = 2 if graph == "gen_step" else rows
    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    found = {"und": zeros(und, model.hidden_size)} | {f"und_{n}": zeros(und, model.head_dim) for n in ("cos", "sin")}
    if graph == "gen_step":
        found |= {"gen": zeros(rows, model.hidden_size)} | {
            f"gen_{n}": zeros(rows, model.head_dim) for n in ("cos", "sin")
        }
    keys = PAST + und + (rows if graph == "gen_step" else 0)
    pool = (2 * model.num_hidden_layers * 64, model.num_key_value_heads, model.head_dim)
    return found | {"pool": np.zeros(pool, cache), "slots": np.arange(PAST), "mask": np.ones((und, keys), np.bool_)}


def vae_inputs(graph: str, manifest: object) -> dict[str, np.ndarray]:
    if graph == "vae_decoder":
        return {"latent": np.zeros((1, manifest.model.latent_channels, 16, 16), np.float32)}  # type: ignore[attr-defined]
    return {"pixels": np.zeros((1, 3, 128, 128), np.float32)}


def kinds(lines: list[str]) -> dict[str, int]:
    """Kernels by what their names say of them."""
    named = [line for line in lines if line.startswith("kernel")]
    words = {"cast": "Cast", "transpose": "ranspose", "reduction": "educe", "norm": "roupNorm"}
    return {kind: sum(word in line for line in named) for kind, word in words.items()}


def main(artefact: Path) -> None:
    from bagel_engines import open_engine
    from bagel_engines.onnxruntime.shared_weights import SharedWeights
    from bagel_engines.settings import Settings
    from bagel_rt.artefact.manifest import read_manifest

    bindings.install()
    SharedWeights._read_in_place = lambda self: True
    manifest = read_manifest(artefact)
    for form in ("portable", "fused"):
        for name, rows in (("gen_step", 256), ("und_step", 1), (TOGETHER, 4), ("vae_decoder", 0), ("vae_encoder", 0)):
            graph = name.split()[0]
            engine: Any = open_engine("onnxruntime", "cuda", Settings(stated=manifest.arithmetic, cuda_graphs=False))
            if form == "portable":
                engine._fused, engine._joins, engine._vae = None, False, lambda graph: None
            runner = engine.load(artefact / f"{graph}.onnx")
            given = inputs(graph, manifest, rows) if rows else vae_inputs(graph, manifest)
            if name == TOGETHER:
                given["mask"][:, PAST:] = np.eye(rows, dtype=bool)
            held = {key: engine.hold(array) for key, array in given.items()}
            wanted = {"gen_step": ("gen_out",), "und_step": ("new_kv",)}.get(graph, runner.outputs)
            runner.run(held, wanted, wanted)
            journal()
            runner.run(held, wanted, wanted)
            done = journal()
            told = {"graph": name, "form": form, "whole": counts(done)}
            told |= {"layer": layer(done)} if rows else {"kinds": kinds(done)}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

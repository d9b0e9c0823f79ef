"""Does each exported graph compute what the reference computes? Measured at export, stored in the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from bagel_engines import EngineFailure, open_engine
from bagel_export.formats import FORMATS
from bagel_export.precision import Precision
from bagel_export.recipe import Treated
from bagel_export.streaming import Streamed
from bagel_rt.contract import GraphSpec, input_shapes
from bagel_rt.numbers import KEPT_AS, widened

MEMORY_PER_WEIGHT_BYTE = 2.2  # the mapped weights, and ONNX Runtime's packed copy of them
SIZES = {
    "patches": 12,
    "und_rows": 4,
    "gen_rows": 9,
    "past": 21,
    "pool_slots": 40,
    "height": 64,
    "width": 48,
    "latent_height": 8,
    "latent_width": 6,
}


def example_inputs(spec: GraphSpec, halves: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random but well-formed inputs: unit rotations, distinct slots, a mask that lets every query see itself."""
    random = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for tensor in spec.inputs:
        shape = input_shapes(spec, SIZES, halves)[tensor.name]
        if tensor.name == "slots":
            arrays[tensor.name] = random.permutation(SIZES["pool_slots"])[: shape[0]].astype(np.int64)
        elif tensor.name == "position_ids":
            arrays[tensor.name] = np.arange(shape[0], dtype=np.int64)
        elif tensor.name == "mask":
            arrays[tensor.name] = np.tril(np.ones(shape, bool), SIZES["past"])
        elif tensor.name == "time":
            arrays[tensor.name] = np.full(shape, 0.7, np.float32)
        elif tensor.name.endswith(("_cos", "_sin")):
            angles = np.arange(shape[0])[:, None] * 0.3 ** np.arange(shape[1] // 2)[None]
            half = np.cos(angles) if tensor.name.endswith("cos") else np.sin(angles)
            arrays[tensor.name] = np.concatenate([half, half], axis=1).astype(np.float32)
        else:
            arrays[tensor.name] = random.standard_normal(shape).astype(np.float32)
    return arrays


def compare(
    spec: GraphSpec,
    module: nn.Module,
    graph: Path,
    tensors: Mapping[str, Treated],
    size: int,
    halves: int,
    precision: Precision,
) -> dict[str, Any]:
    """Run a graph and, in float32, its wrapper on the mapped weights as rounded; state how far they are apart.

    `size`: bytes of weights the graph reads. Runs on ONNX Runtime, which has no bfloat16 on CPUs: there on OpenVINO.
    Too little free memory, or no such engine, is stated as "not verified".
    """
    needed, free = int(size * MEMORY_PER_WEIGHT_BYTE) + (64 << 20), psutil.virtual_memory().available
    if needed > free:
        return _unverified(f"needs about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free")
    inputs = example_inputs(spec, halves)
    try:
        engine = open_engine(_engine_for(precision), stated=precision.arithmetic)
    except EngineFailure as error:
        return _unverified(str(error))
    kept = {t.name: narrowed(inputs[t.name], t.dtype) for t in spec.inputs}
    got = engine.load(graph).run(kept, [t.name for t in spec.outputs])
    rounding = {name: kept.rounding for name, kept in tensors.items() if kept.rounding}
    with torch.no_grad(), Streamed(module, tensors, rounding):
        out = module(*(torch.from_numpy(_as_reference(kept[t.name], t.dtype)) for t in spec.inputs))
    wanted = [t.numpy() for t in (out if isinstance(out, tuple) else (out,))]
    pairs = [(_as_reference(got[t.name], t.dtype), w) for t, w in zip(spec.outputs, wanted, strict=True)]
    relative = max(float(np.linalg.norm(g - w) / max(np.linalg.norm(w), 1e-12)) for g, w in pairs)
    absolute = max(float(np.max(np.abs(g - w))) for g, w in pairs)
    passed = bool(np.isfinite(relative) and relative <= precision.tolerance)
    return {
        "status": "verified" if passed else "failed",
        "relative_l2": relative,
        "max_abs": absolute,
        "tolerance": precision.tolerance,
        "engine": str(engine.info),
        "reference": f"torch {torch.__version__}, float32",
    }


def narrowed(values: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers as a graph takes them: rounded to 16 bits where dtype says so (bfloat16 as its bits)."""
    if dtype not in KEPT_AS:
        return values
    return values.astype(FORMATS[dtype].dtype, copy=False).view(KEPT_AS[dtype])


def _as_reference(kept: np.ndarray, dtype: str) -> np.ndarray:
    return widened(kept, dtype) if dtype in KEPT_AS else kept


def _engine_for(precision: Precision) -> str:
    return "openvino" if "bfloat16" in (precision.arithmetic, precision.vae) else "onnxruntime"


def _unverified(reason: str) -> dict[str, Any]:
    return {"status": "not verified", "reason": reason}


def skipped() -> dict[str, Any]:
    """The entry of a graph whose check the caller switched off."""
    return _unverified("switched off by --no-verify")

"""Compares each exported graph with the PyTorch reference at export time; the distance is stored in the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from bagel_engines import EngineFailure, Settings, open_engine
from bagel_engines.number_formats import KEPT_AS, narrowed, widened
from bagel_export.quantization.precision import Precision
from bagel_export.quantization.recipe import Treated
from bagel_export.reference.streamed import Streamed
from bagel_rt.artefact.contract import GraphSpec
from bagel_rt.artefact.example_inputs import example_inputs

MEMORY_PER_WEIGHT_BYTE = 2.2  # bytes in memory per byte of weights: as mapped, and in ONNX Runtime's packed copy


def compare(
    spec: GraphSpec,
    module: nn.Module,
    graph: Path,
    tensors: Mapping[str, Treated],
    size: int,
    halves: int,
    precision: Precision,
) -> dict[str, Any]:
    """Run a graph and, in float32 PyTorch, its wrapper with the weights as the artefact rounded them; return the
    distance.

    size: bytes of weights the graph reads. The graph runs on ONNX Runtime, in bfloat16 on OpenVINO, because ONNX
    Runtime has no bfloat16 kernels for CPUs. Too little free memory, or no such engine, is stated as "not verified".
    """
    needed, free = int(size * MEMORY_PER_WEIGHT_BYTE) + (64 << 20), psutil.virtual_memory().available
    if needed > free:
        return _unverified(f"needs about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free")
    inputs = example_inputs(spec, halves)
    try:
        engine = open_engine(_engine_for(precision), settings=Settings(stated=precision.arithmetic, weights=size))
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


def _as_reference(kept: np.ndarray, dtype: str) -> np.ndarray:
    return widened(kept, dtype) if dtype in KEPT_AS else kept


def _engine_for(precision: Precision) -> str:
    return "openvino" if "bfloat16" in (precision.arithmetic, precision.vae) else "onnxruntime"


def _unverified(reason: str) -> dict[str, Any]:
    return {"status": "not verified", "reason": reason}


def skipped() -> dict[str, Any]:
    """The entry of a graph whose check the caller switched off."""
    return _unverified("switched off by --no-verify")

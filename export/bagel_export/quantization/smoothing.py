"""Smoothing: what makes rows hard to round to 8 bits is moved into the weights, without a change to the product.

For a weight W (out, in) that multiplies x, x W^T = (x / s) (W s)^T. x / s costs nothing where x comes out of a norm's
weight or out of another Linear, which take the division. s as in SmoothQuant (arXiv 2211.10438, equation 4):
s = max|x|^a / max|W|^(1 - a), for each input, where that stands out; elsewhere s = 1. A calibration sees few rows: an
input that is quiet in all of them may be loud in others, and an s below 1 would make it louder still.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from bagel_export.checkpoint.tensors import SourceTensor
from bagel_export.quantization.calibration import Range
from bagel_export.quantization.precision import GEN, LAYERS
from bagel_export.quantization.recipe import Recipe, Treatment

SHARE = 0.5  # a: how much of an outlier the weights take
STANDS_OUT = 2.0  # times the median: where s begins to rise above 1
LEAST_REACH = 1e-3  # for a weight whose inputs were (nearly) zero in the calibration


def calibrated(
    recipe: Recipe, tensors: Mapping[str, SourceTensor], ranges: Mapping[str, Range], layers: int
) -> dict[str, Treatment]:
    """The recipe with what a calibration tells: reach and importance of every rounded weight, and the smoothing."""
    out = dict(recipe)
    for name, seen in ranges.items():
        if name in out and (layout := out[name].layout):
            reach = float(max(seen.largest.max(), LEAST_REACH)) if layout.form == "fp8" else None
            weighs = seen.mean_square / max(float(seen.mean_square.mean()), 1e-30) + 1e-4
            out[name] = replace(out[name], reach=reach, importance=weighs if layout.form == "int4" else None)
    for source, readers in _pairs(tensors, layers):
        if all(_rounds_rows(out[name]) and name in ranges for name in readers):
            factor = _factor([ranges[name] for name in readers], [tensors[name] for name in readers])
            out[source] = replace(out[source], rows=factor)
            for name in readers:
                out[name] = replace(out[name], columns=factor)
    return out


def _rounds_rows(treatment: Treatment) -> bool:
    return treatment.layout is not None and treatment.layout.form == "w8a8"


def _pairs(tensors: Mapping[str, SourceTensor], layers: int) -> Iterator[tuple[str, list[str]]]:
    """A tensor that can be divided by s, and every weight that multiplies its outputs, and so must be multiplied by s.

    In the forms that share a norm or an expert, both experts' weights read it.
    """
    for i in range(layers):
        at = f"{LAYERS}{i}."
        for norm, weights in (
            ("input_layernorm", ["self_attn.q_proj{}", "self_attn.k_proj{}", "self_attn.v_proj{}"]),
            ("post_attention_layernorm", ["mlp{}.gate_proj", "mlp{}.up_proj"]),
        ):
            own = f"{at}{norm}{GEN}.weight" in tensors
            for suffixes in ([""], [GEN]) if own else ([""] if norm.startswith("input") else ["", GEN],):
                readers = [f"{at}{weight.format(s)}.weight" for s in suffixes for weight in weights]
                yield f"{at}{norm}{suffixes[0] if own else ''}.weight", [r for r in readers if r in tensors]
        for s in ("", GEN):
            if f"{at}mlp{s}.up_proj.weight" in tensors:
                yield f"{at}mlp{s}.up_proj.weight", [f"{at}mlp{s}.down_proj.weight"]


def _factor(ranges: list[Range], weights: list[SourceTensor]) -> np.ndarray:
    """s for the inputs (inputs,) that these weights share."""
    rows = np.max([r.largest for r in ranges], axis=0)
    columns = np.max([np.abs(w.array()).max(axis=0) for w in weights], axis=0)
    factor = rows**SHARE / np.maximum(columns, 1e-12) ** (1 - SHARE)
    return np.maximum(factor / max(STANDS_OUT * float(np.median(factor)), 1e-12), 1).astype(np.float32)

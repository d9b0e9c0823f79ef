"""Graphs whose products with quantised weights were given to CUDA's kernels compute what the portable ones do.

Both on ONNX Runtime's CPU; what it has no kernel for is written with the standard's operators (float8_outside.py).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from quantised_products import quantised
from step_forms import beside, both, causal_mask, far, inputs

from bagel_engines.onnxruntime.cuda_form import (
    CudaForm,
    kinds_beside,
    sources_of,
    with_fused_attention,
    with_fused_rows,
    with_kernels,
)
from bagel_engines.onnxruntime.masked_runner import ALL, CAUSAL, DRAW, MANY, MANY_DRAW, OTHER
from bagel_engines.onnxruntime.quantised_products import Codes, Scales

FP8, NBITS = "MatMulBlockQuantizedFp8Weight", "MatMulNBits"


def kinds(form: CudaForm | None) -> Counter[str]:
    assert form is not None
    return Counter(node.op_type for node in onnx.load_from_string(form.model).graph.node)


def step_inputs(folder: Path, graph: str) -> tuple[dict[str, np.ndarray], str]:
    """Inputs of a step graph, and the kind of its mask."""
    if graph == "und_step":
        return inputs(folder, 5, 0, 9, causal_mask(5, 9)), CAUSAL
    return inputs(folder, 2, 6, 9, np.ones((2, 17), bool)), ALL


@pytest.mark.parametrize("graph", ["und_step", "gen_step"])
@pytest.mark.parametrize("word", ["int8", "int4"])
def test_weights_in_blocks_are_multiplied_as_the_portable_graph_has_them(quantised_artefacts, word, graph):
    folder = quantised_artefacts / word
    assert far(both(folder, graph, *step_inputs(folder, graph))) < 2e-5


@pytest.mark.parametrize("graph", ["und_step", "gen_step"])
def test_rows_that_w8a8_rounds_stay_as_they_are_and_its_weights_are_the_same(quantised_artefacts, graph):
    """The distance is what the rounding of rows makes."""
    folder = quantised_artefacts / "w8a8"
    given, kind = step_inputs(folder, graph)
    assert 1e-4 < far(both(folder, graph, given, kind)) < 3e-2
    form = with_fused_attention(folder / f"{graph}.onnx", kind)
    assert not {"QuantizeLinear", "DequantizeLinear", "ReduceMax", "Abs"} & kinds(form).keys()


def test_fp8_products_round_their_rows_as_the_portable_graph_does(half_artefacts):
    folder = half_artefacts("fp8", "fp16")
    for graph in ("und_step", "gen_step"):
        assert far(both(folder, graph, *step_inputs(folder, graph))) < 5e-2


def in_8_bits(folder: Path) -> CudaForm:
    form = with_fused_attention(folder / "gen_step.onnx", MANY)
    assert form is not None
    return form


def test_fp8_products_of_many_rows_are_the_same_in_8_bits(half_artefacts):
    """Of the latents' rows; those of the two markers beside them are few."""
    folder = half_artefacts("fp8", "fp16")
    form = in_8_bits(folder)
    assert far(beside(folder, "gen_step", form, step_inputs(folder, "gen_step")[0])) < 5e-2
    found = kinds(form)
    assert found["GemmFloat8"] == found[FP8] > 0
    assert kinds_beside(folder / "gen_step.onnx", float8=True) == (DRAW, MANY, MANY_DRAW)
    assert kinds_beside(folder / "und_step.onnx", float8=True) == ()


def halved(ending: str) -> Any:
    """A fault: weights of these names are half of what they should be."""

    def change(_: Any, weights: dict[str, np.ndarray]) -> None:
        found = [name for name in weights if name.endswith(ending)]
        assert found
        for name in found:
            weights[name] = weights[name] / 2 if weights[name].dtype.kind == "f" else weights[name] // 2

    return change


@pytest.mark.parametrize("ending", [".scale.codes", ".scale.codes.packed.ratios", ".scale.codes.middle"])
def test_a_wrong_scale_of_fp8_weights_is_seen(half_artefacts, ending):
    folder = half_artefacts("fp8", "fp16")
    given, change = step_inputs(folder, "gen_step")[0], halved(ending)
    assert far(beside(folder, "gen_step", in_8_bits(folder), given, change)) > 1.5e-1


@pytest.mark.parametrize("word", ["int8", "int4", "w8a8"])
def test_a_wrong_scale_of_whole_weights_is_seen(quantised_artefacts, word):
    folder = quantised_artefacts / word
    given, kind = step_inputs(folder, "und_step")
    assert far(both(folder, "und_step", given, kind, halved(".scale.codes"))) > 1.5e-1


def test_every_product_of_every_graph_has_a_kernel_and_none_unpacks_weights(quantised_artefacts, half_artefacts):
    folders = [quantised_artefacts / word for word in ("int8", "int4", "w8a8")]
    for folder in (*folders, half_artefacts("fp8", "fp16"), half_artefacts("int8", "bf16")):
        for graph in ("und_step", "gen_step", "vit", "lm_head"):
            path = folder / f"{graph}.onnx"
            if not quantised(path):
                continue
            found = kinds(with_fused_rows(path, False) if graph.endswith("step") else with_kernels(path))
            assert found[NBITS] + found[FP8] == quantised(path), (folder.name, graph)
            assert not found["DequantizeLinear"]


def test_queries_keys_and_values_are_one_product_with_quantised_weights_too(quantised_artefacts, half_artefacts):
    """Five products a layer and expert."""
    for folder, node in ((quantised_artefacts / "int4", NBITS), (half_artefacts("fp8", "fp16"), FP8)):
        for kind in (CAUSAL, OTHER):
            assert kinds(with_fused_attention(folder / "und_step.onnx", kind))[node] == 2 * 5
        assert kinds(with_fused_attention(folder / "gen_step.onnx", ALL))[node] == 2 * 2 * 5


def test_both_step_graphs_read_the_same_weights_whatever_the_mask(quantised_artefacts, half_artefacts):
    for folder in (quantised_artefacts / "int8", half_artefacts("fp8", "fp16")):
        keys = []
        for graph, kind in (("und_step", CAUSAL), ("und_step", ALL), ("und_step", OTHER), ("gen_step", ALL)):
            path = folder / f"{graph}.onnx"
            keys.append({source.key for source in sources_of(path, with_fused_attention(path, kind)).values()})
        assert keys[0] == keys[1] == keys[2] < keys[3]


def test_codes_and_scales_of_a_product_stand_for_its_weights():
    random = np.random.default_rng(1)
    dense = random.standard_normal((64, 24)).astype(np.float32)
    for bits, dtype in ((8, np.int8), (4, ml_dtypes.int4)):
        largest = (1 << (bits - 1)) - 1
        values = np.rint(dense / np.abs(dense).max() * largest).astype(np.int8)
        codes = Codes(bits, 32)(values.astype(dtype))
        unpacked = codes if bits == 8 else np.stack([codes & 15, codes >> 4], -1)
        again = unpacked.reshape(24, 64).astype(np.int16) - (1 << (bits - 1))
        assert np.array_equal(again.T, values)
    scales = random.random((2, 24)).astype(np.float32)
    assert np.array_equal(Scales(2)(scales), scales.T)
    assert np.array_equal(Scales(2)(scales[0]), np.stack([scales[0]] * 2, 1))

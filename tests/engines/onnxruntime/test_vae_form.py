"""The VAE's graphs made for CUDA, run in PyTorch, compute what the portable ones do on ONNX Runtime's CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from form_in_torch import run

from bagel_engines import EngineFailure, Settings, open_engine
from bagel_engines.onnxruntime import vae_form
from bagel_engines.onnxruntime.cuda_form import with_fused_vae

GIVEN = {"vae_decoder": ("latent", (1, 16, 6, 8)), "vae_encoder": ("pixels", (1, 3, 48, 64))}


def given(graph: Path, factor: float = 1.0) -> dict[str, np.ndarray]:
    name, shape = GIVEN[graph.stem]
    return {name: np.random.default_rng(2).standard_normal(shape, np.float32) * np.float32(factor)}


def portable(graph: Path, factor: float = 1.0) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    return session.run(None, given(graph, factor))[0]


def made(graph: Path, half: bool, factor: float = 1.0, change: Any = None) -> np.ndarray:
    form = with_fused_vae(graph, half)
    assert form is not None
    return run(form, graph, given(graph, factor), change)


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("name", GIVEN)
def test_in_float32_it_is_the_portable_graph(small_artefact, quantised_artefacts, name):
    for folder in (small_artefact, quantised_artefacts / "int8"):  # weights as they are, and in 8 bits
        graph = folder / f"{name}.onnx"
        assert far(made(graph, half=False), portable(graph)) < 1e-5


@pytest.mark.parametrize("name", GIVEN)
def test_float16_is_a_thousandth_away_from_float32(small_artefact, name):
    graph = small_artefact / f"{name}.onnx"
    assert far(made(graph, half=True), portable(graph)) < 2e-3


@pytest.mark.parametrize("name", GIVEN)
def test_a_bfloat16_vae_is_computed_in_float16_as_near(bf16_artefact, name):
    graph = bf16_artefact / f"{name}.onnx"
    assert far(made(graph, half=True), made(graph, half=False)) < 2e-3


def test_sums_that_float16_does_not_hold_are_kept_divided(small_artefact, monkeypatch):
    graph, large = small_artefact / "vae_decoder.onnx", 15e3
    wanted = made(graph, half=False, factor=large)
    assert far(made(graph, half=True, factor=large), wanted) < 2e-2
    monkeypatch.setattr(vae_form, "DIVISOR", 1)
    assert not np.isfinite(made(graph, half=True, factor=large)).all()


def kinds(graph: Path) -> list[str]:
    form = with_fused_vae(graph, True)
    assert form is not None
    return [node.op_type for node in onnx.load_from_string(form.model).graph.node]


def test_a_norm_is_one_node_with_the_sum_before_it_and_the_activation_behind_it(small_artefact):
    """But in the widest level of so small a VAE, whose groups have one channel."""
    found = kinds(small_artefact / "vae_decoder.onnx")
    plain = [node.op_type for node in onnx.load(str(small_artefact / "vae_decoder.onnx")).graph.node]
    assert found.count("NhwcConv") == plain.count("Conv")
    norms = found.count("GroupNorm") + found.count("SkipGroupNorm")
    assert norms + found.count("GroupNormalization") == plain.count("GroupNormalization")
    assert norms > 20
    assert found.count("SkipGroupNorm") + found.count("Add") == plain.count("Add")
    assert "Sigmoid" not in found
    assert found.count("Cast") == 2


def epsilon_as_it_was(model: Any, _: dict) -> None:
    """A fault: an epsilon for sums that were not divided."""
    for node in model.graph.node:
        for attribute in node.attribute:
            attribute.f *= 256 if attribute.name == "epsilon" else 1


def turned_filters(_: Any, weights: dict[str, np.ndarray]) -> None:
    """A fault: height and width of the filters exchanged."""
    for name, array in weights.items():
        if array.ndim == 4:
            weights[name] = array.transpose(0, 2, 1, 3)


def whole_biases(_: Any, weights: dict[str, np.ndarray]) -> None:
    """A fault: biases that are not divided with the weights."""
    for name, array in weights.items():
        if name.endswith(".bias"):
            weights[name] = array * 16


@pytest.mark.parametrize("fault", [epsilon_as_it_was, turned_filters, whole_biases])
def test_a_wrong_epsilon_filter_or_bias_is_seen(small_artefact, fault):
    graph = small_artefact / "vae_decoder.onnx"
    assert far(made(graph, half=True, factor=0.01, change=fault), portable(graph, 0.01)) > 2e-3


def test_a_graph_that_is_built_in_another_way_stays_as_it_is(small_artefact):
    assert with_fused_vae(small_artefact / "gen_step.onnx", True) is None


def test_an_exact_vae_is_refused_where_it_is_exact_anyway():
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(EngineFailure, match=f"{backend} on cpu computes as the artefact states"):
            open_engine(backend, settings=Settings(exact_vae=True))

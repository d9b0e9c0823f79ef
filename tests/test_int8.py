"""Weight-only int8: rounding, the graphs that use it, and what an artefact of it weighs."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bagel_rt
from bagel_engines import open_engine
from bagel_engines.tensorrt_check import lint
from bagel_export.artefact import export
from bagel_export.quantize import BLOCK, dequantize, quantize
from bagel_rt.contract import GEN_STEP, TASK_GRAPHS, VAE_DECODER, VIT, graph_specs
from bagel_rt.examples import example_inputs
from bagel_rt.manifest import read_manifest


@pytest.fixture(scope="module")
def int8_artefact(small_checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("artefact") / "int8"
    for _ in export(small_checkpoint, out, precision="int8"):
        pass
    return out


weights = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(max_examples=40, deadline=None)
@given(weights, st.integers(1, 5), st.integers(1, 9))
def test_a_linear_weight_comes_back_within_half_a_step_of_its_block(random, blocks, outputs):
    weight = (random.standard_normal((outputs, blocks * BLOCK)) * random.lognormal(0, 3, (outputs, 1))).astype("f4")
    values, scale = quantize(weight, "blocks")
    assert values.shape == weight.T.shape
    assert scale.shape == (blocks, outputs)
    steps = np.repeat(scale, BLOCK, axis=0).T
    assert np.all(np.abs(dequantize(values, scale, "blocks") - weight) <= steps * 0.5001)


@settings(max_examples=20, deadline=None)
@given(weights, st.integers(1, 9))
def test_a_convolution_comes_back_within_half_a_step_of_its_channel(random, channels):
    weight = random.standard_normal((channels, 5, 3, 3)).astype("f4")
    values, scale = quantize(weight, "channels")
    assert np.all(np.abs(dequantize(values, scale, "channels") - weight) <= scale.reshape(-1, 1, 1, 1) * 0.5001)


def test_an_all_zero_weight_stays_zero():
    values, scale = quantize(np.zeros((4, BLOCK), np.float32), "blocks")
    assert not dequantize(values, scale, "blocks").any()
    assert np.isfinite(scale).all()


def test_every_int8_graph_computes_what_the_reference_does_with_the_rounded_weights(int8_artefact):
    manifest = json.loads((int8_artefact / "bagel_rt.json").read_text())
    assert manifest["precision"] == "int8"
    for name, graph in manifest["graphs"].items():
        assert graph["parity"]["status"] == "verified", name
        assert graph["parity"]["relative_l2"] < 1e-5, name


def test_rounding_is_seen_but_small(int8_artefact, small_artefact):
    model = read_manifest(small_artefact).model
    for name in (VIT, GEN_STEP, VAE_DECODER):
        spec = graph_specs(model)[name]
        inputs, outputs = example_inputs(spec, 2 * model.num_hidden_layers), [t.name for t in spec.outputs]
        engine = open_engine("onnxruntime")
        exact, rounded = (engine.load(a / f"{name}.onnx").run(inputs, outputs) for a in (small_artefact, int8_artefact))
        for key, value in exact.items():
            apart = np.linalg.norm(rounded[key] - value) / np.linalg.norm(value)
            assert 1e-5 < apart < 0.05, (name, key)


@pytest.mark.parametrize("name", TASK_GRAPHS["full"])
def test_int8_graphs_are_standard_onnx_and_free_of_tensorrt_traps(int8_artefact, name):
    path = int8_artefact / f"{name}.onnx"
    model = onnx.load(path, load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}
    assert "DequantizeLinear" in {node.op_type for node in model.graph.node}
    onnx.checker.check_model(str(path))
    assert lint(path) == []


def test_both_engines_draw_the_same_picture_from_int8_weights(int8_artefact):
    pictures = []
    for backend in ("onnxruntime", "openvino"):
        with bagel_rt.load(int8_artefact, backend) as bagel:
            result = bagel.generate("a red circle", seed=3, height=64, width=64, num_timesteps=5)
            pictures.append(np.asarray(result.image, int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_int8_weights_take_less_than_a_third_of_the_room(int8_artefact, small_artefact):
    size = lambda folder: (folder / "weights.safetensors").stat().st_size  # noqa: E731
    assert size(int8_artefact) < size(small_artefact) / 3


def test_an_unknown_precision_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(bagel_rt.ExportError, match="precision 'int3' is unknown; allowed: fp32, bf16, fp16, int8"):
        list(export(tmp_path / "nothing", tmp_path / "out", precision="int3"))

"""Quantised weights: rounding, the graphs that use them, and what an artefact of them weighs."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from documents import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import bagel_rt
from bagel_engines import open_engine
from bagel_engines.openvino.arithmetic import native, rounds_rows
from bagel_engines.tensorrt.lint import lint
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.quantization import quantize as q
from bagel_export.quantization.precision import precision_named
from bagel_export.quantization.quantize import Layout, dequantize, layout_for, packed, quantize
from bagel_export.quantization.recipe import recipe_for
from bagel_export.weights import write
from bagel_rt.artefact.contract import GEN_STEP, TASK_GRAPHS, VAE_DECODER, VIT, graph_specs
from bagel_rt.artefact.example_inputs import example_inputs
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.cli import main

WORDS = ("int8", "int4", "w8a8")

randoms = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def spread(random, outputs: int, inputs: int) -> np.ndarray:
    """A weight whose outputs differ much in size."""
    return (random.standard_normal((outputs, inputs)) * random.lognormal(0, 3, (outputs, 1))).astype("f4")


@settings(max_examples=40, deadline=None)
@given(randoms, st.integers(1, 5), st.integers(1, 9), st.sampled_from([Layout("int8", 32), Layout("w8a8")]))
def test_a_linear_weight_comes_back_within_half_a_step(random, blocks, outputs, layout):
    weight = spread(random, outputs, blocks * 32)
    values, scale = quantize(weight, layout)
    assert (values.shape, scale.shape) == layout.shapes(weight.shape)
    steps = np.repeat(scale, 32, axis=0).T if layout.block else scale[:, None]
    assert np.all(np.abs(dequantize(values, scale, layout) - weight) <= steps * 0.5001)


@settings(max_examples=20, deadline=None)
@given(randoms, st.integers(1, 9))
def test_a_convolution_comes_back_within_half_a_step_of_its_channel(random, channels):
    weight, layout = random.standard_normal((channels, 5, 3, 3)).astype("f4"), Layout("conv8")
    values, scale = quantize(weight, layout)
    assert np.all(np.abs(dequantize(values, scale, layout) - weight) <= scale.reshape(-1, 1, 1, 1) * 0.5001)


@settings(max_examples=30, deadline=None)
@given(randoms, st.integers(1, 9))
def test_four_bits_with_a_searched_scale_are_never_worse_than_rounded_to_nearest(random, outputs):
    weight, layout = random.standard_t(4, (outputs, 128)).astype("f4"), Layout("int4", 64)
    found = dequantize(*quantize(weight, layout), layout)
    blocks = weight.reshape(outputs, 2, 64)
    step = np.abs(blocks).max(axis=2, keepdims=True) / 7
    nearest = (np.rint(blocks / step) * step).reshape(weight.shape)
    assert np.square(found - weight).sum() <= np.square(nearest - weight).sum() * 1.0001


def test_the_search_spends_its_steps_on_the_inputs_that_matter():
    weight = np.random.default_rng(0).standard_t(3, (64, 256)).astype("f4")
    importance = np.where(np.arange(256) % 8 == 0, 100.0, 0.01)
    error = lambda w: float((np.square(w - weight) * importance).sum())  # noqa: E731
    layout = Layout("int4", 64)
    weighed = dequantize(*quantize(weight, layout, importance), layout)
    assert error(weighed) < 0.8 * error(dequantize(*quantize(weight, layout), layout))


@pytest.mark.parametrize("form", ["int8", "int4", "w8a8", "fp8"])
def test_an_all_zero_weight_stays_zero(form):
    layout = Layout(form, 32 if form in q.BLOCKS else 0)
    values, scale = quantize(np.zeros((4, 32), np.float32), layout)
    assert not dequantize(values, scale, layout).any()
    assert np.isfinite(scale.astype("f4")).all()


@pytest.mark.parametrize(
    "form, inputs, block",
    [
        ("int8", 3584, 128),
        ("int8", 18944, 128),
        ("int8", 192, 64),
        ("int8", 96, 32),
        ("int4", 3584, 64),
        ("int4", 128, 64),
        ("int4", 96, 32),
    ],
)
def test_a_scale_is_shared_by_the_block_that_the_documents_name_or_the_largest_that_divides(form, inputs, block):
    assert layout_for(form, (5, inputs)) == Layout(form, block)
    page = (ROOT / "docs" / "precisions.md").read_text(encoding="utf-8")
    assert f"`{form}` | {form[3:]} bits in blocks of {q.BLOCKS[form][0]}" in page


def test_inputs_that_no_block_divides_have_a_scale_for_each_output():
    for form in ("int8", "int4"):
        layout = layout_for(form, (5, 4304))
        assert layout == Layout("int8")
        weight = np.random.default_rng(0).standard_normal((5, 4304)).astype("f4")
        values, scale = quantize(weight, layout)
        assert (values.dtype, scale.shape) == (np.int8, (5,))
        assert np.all(np.abs(dequantize(values, scale, layout) - weight) <= scale[:, None] * 0.5001)


def test_eight_bit_floats_keep_three_bits_of_every_number():
    weight = np.random.default_rng(1).standard_normal((8, 64)).astype("f4")
    back = dequantize(*quantize(weight, Layout("fp8")), Layout("fp8"))
    usual = np.abs(weight) > 0.05
    assert np.all(np.abs(back - weight)[usual] <= np.abs(weight)[usual] / 15)


def test_four_bit_numbers_are_packed_as_onnx_reads_them(tmp_path):
    weight, layout = np.random.default_rng(2).standard_normal((6, 64)).astype("f4"), Layout("int4", 32)
    values, scale = quantize(weight, layout)
    stored = helper.make_tensor("w", TensorProto.INT4, values.shape, packed(values).tobytes(), raw=True)
    scales = helper.make_tensor("s", TensorProto.FLOAT, scale.shape, scale.tobytes(), raw=True)
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=0, block_size=32)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, values.shape)
    graph = helper.make_graph([node], "g", [], [out], [stored, scales])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11), tmp_path / "g.onnx")
    for engine in ("onnxruntime", "openvino"):
        got = open_engine(engine).load(tmp_path / "g.onnx").run({}, ["y"])["y"]
        np.testing.assert_allclose(got.T, dequantize(values, scale, layout), rtol=1e-6)


@pytest.mark.parametrize("word, limit", [("int8", 1e-5), ("int4", 1e-5), ("w8a8", 1e-2)])
def test_every_graph_computes_what_the_reference_does_with_the_rounded_numbers(quantised_artefacts, word, limit):
    manifest = json.loads((quantised_artefacts / word / "bagel_rt.json").read_text())
    assert manifest["precision"] == word
    for name, graph in manifest["graphs"].items():
        assert graph["parity"]["status"] == "verified", name
        assert graph["parity"]["relative_l2"] < limit, name


@pytest.mark.parametrize("word, least, most", [("int8", 1e-5, 0.05), ("int4", 0.01, 0.4), ("w8a8", 1e-3, 0.1)])
def test_rounding_is_seen_but_small(quantised_artefacts, small_artefact, word, least, most):
    model = read_manifest(small_artefact).model
    for name in (VIT, GEN_STEP, VAE_DECODER):
        spec = graph_specs(model)[name]
        inputs, outputs = example_inputs(spec, 2 * model.num_hidden_layers), [t.name for t in spec.outputs]
        engine = open_engine("onnxruntime")
        exact, rounded = (
            engine.load(a / f"{name}.onnx").run(inputs, outputs) for a in (small_artefact, quantised_artefacts / word)
        )
        for key, value in exact.items():
            apart = np.linalg.norm(rounded[key] - value) / np.linalg.norm(value)
            assert (least if name == GEN_STEP else 1e-5) < apart < most, (name, key)


@pytest.mark.parametrize("word", WORDS)
def test_quantised_graphs_are_standard_onnx_and_free_of_tensorrt_traps(quantised_artefacts, word):
    for name in TASK_GRAPHS["full"]:
        path = quantised_artefacts / word / f"{name}.onnx"
        model = onnx.load(path, load_external_data=False)
        assert {node.domain for node in model.graph.node} == {""}
        quantised = "DequantizeLinear" in {node.op_type for node in model.graph.node}
        assert quantised == (not name.startswith("flow_")), name
        onnx.checker.check_model(str(path))
        assert lint(path) == []


@pytest.mark.parametrize("word, products", [("int8", 0), ("w8a8", 4)])
def test_rows_are_rotated_before_each_down_projection_of_w8a8(quantised_artefacts, word, products):
    graph = onnx.load(quantised_artefacts / word / f"{GEN_STEP}.onnx", load_external_data=False).graph
    square = {t.name for t in graph.initializer if list(t.dims) == [128, 128] and not t.external_data}
    rotations = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in square]
    assert len(rotations) == products  # two layers of two experts
    assert len(square) == min(1, products)


@pytest.mark.parametrize("word, steps", [("int8", 1), ("int4", 1), ("w8a8", 12)])
def test_both_engines_draw_the_same_picture_from_rounded_weights(quantised_artefacts, word, steps):
    pictures = []
    for backend in ("onnxruntime", "openvino"):
        with bagel_rt.load(quantised_artefacts / word, backend) as bagel:
            result = bagel.generate("a red circle", seed=3, height=64, width=64, num_timesteps=5)
            pictures.append(np.asarray(result.image, int))
    assert np.abs(pictures[0] - pictures[1]).max() <= steps


@pytest.mark.parametrize("word", WORDS)
def test_weights_rounded_piece_by_piece_are_those_rounded_at_once(small_checkpoint, tmp_path, monkeypatch, word):
    tensors = open_checkpoint(small_checkpoint).tensors
    recipe = recipe_for(tensors, precision_named(word))

    def written(name: str) -> bytes:
        for _ in write.write_weights(tensors, tmp_path / name, recipe):
            pass
        return (tmp_path / name).read_bytes()

    at_once = written("whole")
    monkeypatch.setattr(write, "PIECE", 1)
    assert written("pieces") == at_once


@pytest.mark.parametrize("word, share", [("int8", 1 / 3), ("w8a8", 1 / 3), ("int4", 1 / 5)])
def test_rounded_weights_take_less_room(quantised_artefacts, small_artefact, word, share):
    size = lambda folder: read_manifest(folder).graphs[GEN_STEP]["weight_bytes"]  # noqa: E731
    assert size(quantised_artefacts / word) < size(small_artefact) * share
    assert read_manifest(quantised_artefacts / word).weight_bytes < read_manifest(small_artefact).weight_bytes / 3


def drawn(model, backend="onnxruntime", **engine):
    with bagel_rt.load(model, backend, **engine) as bagel:
        result = bagel.generate("a red circle", seed=3, height=64, width=64, num_timesteps=5)
        return result.latent, result.engine


@pytest.mark.parametrize("command", ["plan --prompt", "generate --prompt"])
def test_rounding_is_refused_where_no_weights_are_quantised(small_artefact, capsys, command):
    words = [*command.split(), "a red circle", "--model", str(small_artefact), "--arithmetic", "int8"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "arithmetic 'int8' rounds what 8-bit and 4-bit weights multiply, and fp32 has none" in said
    assert "--precision balanced" in said


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("word", ["int8", "int4"])
def test_rounding_what_quantised_weights_multiply_is_asked_for_and_named(quantised_artefacts, backend, word):
    if backend == "openvino" and not rounds_rows("bfloat16" if native("bfloat16") else "float32"):
        with pytest.raises(bagel_rt.EngineUnavailableError, match="computes as without it"):
            drawn(quantised_artefacts / word, backend, arithmetic="int8")
        return
    exact, _ = drawn(quantised_artefacts / word, backend)
    rounded, engine = drawn(quantised_artefacts / word, backend, arithmetic="int8")
    assert engine.endswith("(cpu, int8)")
    apart = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-4 < apart < 0.05

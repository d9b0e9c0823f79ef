"""What ONNX Runtime really runs of a quantised artefact: operators are counted in the graphs as it optimised them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from quantised_products import quantised

from bagel_engines import EngineFailure, Settings, open_engine
from bagel_engines.onnxruntime import quantised_weights, recognised
from bagel_engines.onnxruntime.blocked_scales import block_scales
from bagel_engines.onnxruntime.integer_products import overflows, use_integer_products
from bagel_engines.onnxruntime.rounded_rows import by_output, hadamard, round_rows
from bagel_rt.artefact.contract import GEN_STEP, LM_HEAD, UND_STEP, VAE_DECODER, VAE_ENCODER, VIT, graph_specs
from bagel_rt.artefact.example_inputs import cached, example_inputs
from bagel_rt.artefact.manifest import read_manifest

GRAPHS = (UND_STEP, GEN_STEP, LM_HEAD, VIT, VAE_DECODER, VAE_ENCODER)
PRODUCTS = ("MatMulNBits", "MatMulInteger")


def optimised(graph: Path, arithmetic: str, tmp_path: Path, monkeypatch) -> onnx.GraphProto:
    """A graph as the engine's session runs it."""
    real = onnxruntime.InferenceSession
    overflows(), recognised.recognised()  # these open sessions of their own

    def kept(model, options, **how):
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        return real(model, options, **how)

    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", kept)
        open_engine("onnxruntime", settings=Settings(arithmetic=arithmetic)).load(graph)
    return onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph


def unpacked(graph: onnx.GraphProto) -> list[str]:
    """Weights that are widened to float numbers in every call."""
    stored = {tensor.name for tensor in graph.initializer}
    return [n.output[0] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored]


@pytest.mark.parametrize("word", ["int8", "int4", "w8a8"])
@pytest.mark.parametrize("arithmetic", ["float32", "int8", "int8-rows"])
def test_no_product_is_computed_from_weights_that_each_call_unpacks(
    quantised_artefacts, word, arithmetic, tmp_path, monkeypatch
):
    for name in GRAPHS:
        file = read_manifest(quantised_artefacts / word).graph_file(name)
        graph = optimised(file, arithmetic, tmp_path, monkeypatch)
        assert unpacked(graph) == [], name
        found = Counter(node.op_type for node in graph.node)
        if arithmetic != "float32":
            assert sum(found[op] for op in PRODUCTS) == quantised(file), name


def test_an_arithmetic_that_the_session_ignores_is_an_error(monkeypatch):
    assert recognised.recognised()
    with monkeypatch.context() as patch:
        patch.setattr(recognised, "ROUNDED", quantised_weights.PLAIN)
        assert recognised.operators_of_a_product()["MatMulNBits"] == 0
    monkeypatch.setattr("bagel_engines.onnxruntime.cpu_engine.recognised", lambda: False)
    with pytest.raises(
        EngineFailure, match="unpacks the weights in every call all the same; use --arithmetic int8-rows"
    ):
        open_engine("onnxruntime", settings=Settings(arithmetic="int8"))


def test_the_fusion_that_hides_quantised_weights_is_what_hides_them(quantised_artefacts, tmp_path, monkeypatch):
    monkeypatch.setattr("bagel_engines.onnxruntime.cpu_engine.HIDES_QUANTISED_WEIGHTS", [])
    file = read_manifest(quantised_artefacts / "int8").graph_file(GEN_STEP)
    assert unpacked(optimised(file, "int8", tmp_path, monkeypatch)) != []
    assert quantised_weights.HIDES_QUANTISED_WEIGHTS == ["MatMulAddFusion"]


def test_each_product_of_w8a8_is_one_of_integers(quantised_artefacts, tmp_path, monkeypatch):
    file = read_manifest(quantised_artefacts / "w8a8").graph_file(GEN_STEP)
    graph = optimised(file, "float32", tmp_path, monkeypatch)
    found = Counter(n.op_type for n in graph.node)
    assert found["MatMulInteger"] == quantised(file)
    assert found["DequantizeLinear"] == found["BitwiseXor"] == 0  # weights were made unsigned when it was loaded


@pytest.mark.parametrize("word", ["int8", "int4"])
def test_rows_rounded_as_wholes_make_every_product_one_of_integers(quantised_artefacts, word, tmp_path, monkeypatch):
    file = read_manifest(quantised_artefacts / word).graph_file(GEN_STEP)
    found = Counter(n.op_type for n in optimised(file, "int8-rows", tmp_path, monkeypatch).node)
    assert found["MatMulInteger"] == quantised(file)
    assert found["ReduceMax"] < quantised(file)  # q, k and v share a rounding, and so do gate and up


def test_rows_rounded_as_wholes_spoil_a_step_by_a_few_percent(quantised_artefacts):
    manifest = read_manifest(quantised_artefacts / "int8")
    halves = 2 * manifest.model.num_hidden_layers
    arrays, found = example_inputs(graph_specs(manifest.model)[GEN_STEP], halves), {}
    for arithmetic in ("float32", "int8-rows"):
        engine = open_engine("onnxruntime", settings=Settings(arithmetic=arithmetic))
        given = arrays | {"pool": cached(engine, arrays["pool"], halves)}
        found[arithmetic] = engine.load(manifest.graph_file(GEN_STEP)).run(given, ("gen_out",))["gen_out"]
    apart = np.linalg.norm(found["int8-rows"] - found["float32"]) / np.linalg.norm(found["float32"])
    assert 1e-4 < apart < 0.05


@pytest.mark.parametrize("block", [0, 16, 64])
def test_weights_in_blocks_get_one_scale_for_each_output(block):
    random = np.random.default_rng(4)
    values, scale = random.integers(-127, 128, (64, 8)).astype(np.int8), random.random((2, 8)).astype(np.float32)
    dense = (values.reshape(2, 32, 8) * scale[:, None]).reshape(64, 8)
    again, one = by_output(values, scale, block)
    assert (np.abs(again).max(axis=0) == 127).all()
    given = np.kron(np.eye(64 // block), hadamard(block)) @ (again * one) if block else again * one
    assert np.linalg.norm(given - dense) < 0.01 * np.linalg.norm(dense)  # rotated twice is as before


def test_rows_with_a_few_large_numbers_are_rotated_before_they_are_rounded(tmp_path):
    random = np.random.default_rng(6)
    values = random.integers(-127, 128, (256, 32)).astype(np.int8)
    arrays = {"weights": values, "scale": random.random((2, 32)).astype(np.float32)}
    rows = random.standard_normal((5, 256)).astype(np.float32)
    rows[:, 7] *= 100
    nodes = [
        helper.make_node("DequantizeLinear", ["weights", "scale"], ["dense"], axis=0, block_size=128),
        helper.make_node("MatMul", ["x", "dense"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", w]) for n, w in (("x", 256), ("y", 32))]
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": rows})
    (given,) = round_rows(model, tmp_path).items()
    (place,) = (tensor for tensor in model.graph.initializer if tensor.name == given[0])
    place.CopyFrom(numpy_helper.from_array(given[1], given[0]))
    (found,) = ReferenceEvaluator(model).run(None, {"x": rows})
    apart = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert 0 < apart < 0.012
    assert sum(node.op_type == "MatMul" for node in model.graph.node) == 2


def stated_product(random: np.random.Generator, rows: np.ndarray) -> onnx.ModelProto:
    """A product as an artefact of precision w8a8 states it: (n, 64) rows with (64, 8) weights, a scale per output."""
    weights = random.integers(-127, 128, (64, 8)).astype(np.int8)
    scale = random.lognormal(-4, 1, 8).astype(np.float32)
    step, middle = np.float32(np.abs(rows).max() / 127), np.int8(0)
    arrays = {"weights": weights, "scale": scale, "step": step, "middle": middle}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "middle"], ["values"]),
        helper.make_node("DequantizeLinear", ["values", "step", "middle"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["weights", "scale"], ["dense"], axis=1),
        helper.make_node("MatMul", ["rounded", "dense"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", w]) for n, w in (("x", 64), ("y", 8))]
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def unsigned_weights(model: onnx.ModelProto, folder: Path) -> int:
    return use_integer_products(model, folder, unsigned=True)


@pytest.mark.parametrize("rewrite", [use_integer_products, unsigned_weights, block_scales])
def test_a_rewritten_product_is_the_product_that_was_stated(rewrite, tmp_path):
    random = np.random.default_rng(3)
    rows = random.standard_normal((5, 64)).astype(np.float32)
    model = stated_product(random, rows)
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": rows})
    assert rewrite(model, tmp_path) == 1
    onnx.checker.check_model(model)
    (found,) = ReferenceEvaluator(model).run(None, {"x": rows})
    near = 0.02 if rewrite is block_scales else 1e-6  # in blocks, rows are left for the engine to round
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=near * np.abs(wanted).max())
    if rewrite is not block_scales:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"x": rows})[0], wanted, rtol=1e-5, atol=1e-5)


def test_products_of_the_largest_numbers_are_right_on_every_cpu(tmp_path):
    """Two such products, summed in 16 bits, are cut where there are no VNNI instructions and weights are signed."""
    rows = np.ones((4, 64), np.float32)
    model = stated_product(np.random.default_rng(5), rows)
    numbers = {tensor.name: tensor for tensor in model.graph.initializer}
    numbers["weights"].CopyFrom(numpy_helper.from_array(np.full((64, 8), 127, np.int8), "weights"))
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": rows})
    use_integer_products(model, tmp_path)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": rows})[0], wanted, rtol=1e-5)


def test_a_cpu_that_overflows_in_integer_products_is_found_out():
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "vnni" in flags:
        assert not overflows()
    elif " avx2 " in flags:
        assert overflows()

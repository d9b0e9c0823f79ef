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

from bagel_engines import Settings, open_engine
from bagel_engines.onnxruntime import prepared_graph, quantised_weights
from bagel_engines.onnxruntime.blocked_scales import block_scales
from bagel_engines.onnxruntime.integer_products import exact_here, use_integer_products
from bagel_rt.artefact.contract import GEN_STEP, LM_HEAD, UND_STEP, VAE_DECODER, VAE_ENCODER, VIT
from bagel_rt.artefact.manifest import read_manifest

GRAPHS = (UND_STEP, GEN_STEP, LM_HEAD, VIT, VAE_DECODER, VAE_ENCODER)
PRODUCTS = ("MatMulNBits", "MatMulInteger")


def optimised(graph: Path, arithmetic: str, tmp_path: Path, monkeypatch) -> onnx.GraphProto:
    """A graph as the engine's session runs it."""
    real = onnxruntime.InferenceSession
    exact_here()  # opens a session of its own

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


def quantised(graph: Path) -> int:
    """Products with quantised weights in a graph as it was exported."""
    nodes = onnx.load(graph, load_external_data=False).graph.node
    stored = {t.name for t in onnx.load(graph, load_external_data=False).graph.initializer}
    dense = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] in stored}
    return sum(n.op_type == "MatMul" and bool(dense.intersection(n.input)) for n in nodes)


@pytest.mark.parametrize("word", ["int8", "int4", "w8a8"])
@pytest.mark.parametrize("arithmetic", ["float32", "int8"])
def test_no_product_is_computed_from_weights_that_each_call_unpacks(
    quantised_artefacts, word, arithmetic, tmp_path, monkeypatch
):
    for name in GRAPHS:
        file = read_manifest(quantised_artefacts / word).graph_file(name)
        graph = optimised(file, arithmetic, tmp_path, monkeypatch)
        assert unpacked(graph) == [], name
        found = Counter(node.op_type for node in graph.node)
        if arithmetic == "int8":
            assert sum(found[op] for op in PRODUCTS) == quantised(file), name


def test_the_fusion_that_hides_quantised_weights_is_what_hides_them(quantised_artefacts, tmp_path, monkeypatch):
    monkeypatch.setattr("bagel_engines.onnxruntime.cpu_engine.HIDES_QUANTISED_WEIGHTS", [])
    file = read_manifest(quantised_artefacts / "int8").graph_file(GEN_STEP)
    assert unpacked(optimised(file, "int8", tmp_path, monkeypatch)) != []
    assert quantised_weights.HIDES_QUANTISED_WEIGHTS == ["MatMulAddFusion"]


def test_each_product_of_w8a8_is_one_of_integers_where_the_cpu_does_that_right(
    quantised_artefacts, tmp_path, monkeypatch
):
    monkeypatch.setattr(prepared_graph, "exact_here", lambda: True)
    file = read_manifest(quantised_artefacts / "w8a8").graph_file(GEN_STEP)
    found = Counter(n.op_type for n in optimised(file, "float32", tmp_path, monkeypatch).node)
    assert found["MatMulInteger"] == quantised(file)
    assert found["DequantizeLinear"] == 0
    unsigned = [t for t in optimised(file, "float32", tmp_path, monkeypatch).initializer if t.name == "unsigned_middle"]
    assert [tensor.data_type for tensor in unsigned] == [TensorProto.UINT8]


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


@pytest.mark.parametrize("rewrite", [use_integer_products, block_scales])
def test_a_rewritten_product_is_the_product_that_was_stated(rewrite, tmp_path):
    random = np.random.default_rng(3)
    rows = random.standard_normal((5, 64)).astype(np.float32)
    model = stated_product(random, rows)
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": rows})
    assert rewrite(model, tmp_path) == 1
    onnx.checker.check_model(model)
    (found,) = ReferenceEvaluator(model).run(None, {"x": rows})
    near = 1e-6 if rewrite is use_integer_products else 0.02  # in blocks, rows are left for the engine to round
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=near * np.abs(wanted).max())
    if rewrite is use_integer_products and exact_here():
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"x": rows})[0], wanted, rtol=1e-5, atol=1e-5)


def test_a_cpu_that_overflows_in_integer_products_is_found_out():
    """Two products of the largest numbers, summed in 16 bits, are cut where there are no VNNI instructions."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "vnni" in flags:
        assert exact_here()
    elif " avx2 " in flags:
        assert not exact_here()

"""Thin products beside a graph's own: what they add, whichever way the weight is stored, and when they add nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bagel_engines import EngineFailure, LowRank, Settings, Thin, open_engine
from bagel_engines.low_rank import linear_weights
from bagel_engines.onnx_files import values_of
from bagel_rt.artefact.contract import graph_specs, input_shapes
from bagel_rt.artefact.manifest import Manifest, read_manifest

RANKS = 7
LAYER = "language_model.model.layers.1"
WEIGHTS = [
    f"{LAYER}.{module}.weight"
    for module in ("self_attn.q_proj", "self_attn.o_proj_moe_gen", "mlp.down_proj", "mlp_moe_gen.gate_proj")
]
COLUMNS, SCALES = "adapter_columns", "adapter_scales"


@pytest.fixture(scope="module", params=["fp32", "int8", "int4", "bf16"])
def artefact(request, small_artefact, small_checkpoint, export_once, tmp_path_factory) -> Manifest:
    if request.param == "fp32":
        return read_manifest(small_artefact)
    folder, how = tmp_path_factory.mktemp("kept"), {"precision": request.param, "verify": False}
    return read_manifest(export_once(f"low-rank-{request.param}", small_checkpoint, folder, **how))


def thin_products(graph: Path) -> LowRank:
    random, shapes = np.random.default_rng(0), linear_weights(graph)
    made = {
        name: Thin(*(random.normal(size=(RANKS, size)).astype(np.float32) / 8 for size in shapes[name][::-1]))
        for name in WEIGHTS
    }
    return LowRank(made, COLUMNS, SCALES)


def inputs_of(manifest: Manifest, engine) -> dict[str, np.ndarray]:
    model, random = manifest.model, np.random.default_rng(1)
    spec, halves = graph_specs(model, manifest.arithmetic)["gen_step"], 2 * model.num_hidden_layers
    shapes = input_shapes(spec, {"und_rows": 2, "gen_rows": 5, "past": 3, "pool_slots": 8}, halves)
    made = {t.name: random.normal(size=shapes[t.name]).astype(np.float32) for t in spec.inputs}
    kept = np.dtype(np.float32 if manifest.arithmetic == "float32" else np.uint16)
    pool = engine.cache(halves, 8, (model.num_key_value_heads, model.head_dim), kept).tensor
    return {**made, "slots": np.arange(3), "mask": np.ones(shapes["mask"], bool), "pool": pool}


def merged(graph: Path, added: LowRank, scales: np.ndarray, out: Path) -> Path:
    """The graph over dense float32 weights to which the products were added beforehand."""
    model = onnx.load(str(graph), load_external_data=False)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in list(model.graph.initializer):
        values = values_of(tensor, graph.parent)
        update = added.products.get(tensor.name)
        for node in [node for node in model.graph.node if node.op_type == "DequantizeLinear"]:
            if node.input[0] != tensor.name:
                continue
            scale = values_of(tensors[node.input[1]], graph.parent)
            block = len(values) // len(scale) if scale.ndim == 2 else len(values)
            values = values.astype(np.float32) * np.repeat(np.atleast_2d(scale), block, axis=0)
            tensor.name = node.output[0]
            model.graph.node.remove(node)
        if update is not None:
            product = (update.down.T * scales) @ update.up  # (inputs, outputs)
            values = values + (product if tensor.name.endswith(".dense") else product.T)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(np.array(values, order="C"), name))
    onnx.save(model, str(out))
    return out


def run(runner, given: dict, *choice: tuple[int, float]) -> dict[str, np.ndarray]:
    columns, scales = np.array([c for c, _ in choice], np.int64), np.array([s for _, s in choice], np.float32)
    more = {COLUMNS: columns, SCALES: scales} if COLUMNS in runner.inputs else {}
    return runner.run({**given, **more}, ("und_out", "gen_out"))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_chosen_ranks_are_added_to_the_product_and_others_are_not(artefact, backend, tmp_path):
    """Against the graph over dense weights with the products in them: 6e-7 was measured at most."""
    if artefact.arithmetic != "float32":
        pytest.skip("compared in float32")
    graph, engine = artefact.graph_file("gen_step"), open_engine(backend, "cpu", Settings(stated="float32"))
    added, given = thin_products(graph), inputs_of(artefact, engine)
    scales = np.zeros(RANKS, np.float32)
    scales[[1, 4, 6]] = 0.5, -1.0, 2.0
    wanted = run(engine.load(merged(graph, added, scales, tmp_path / "dense.onnx")), given)
    found = run(engine.load(graph, None, added), given, (4, -1.0), (1, 0.5), (6, 2.0))
    plain = run(engine.load(graph), given)
    for name, values in wanted.items():
        size = np.linalg.norm(values)
        assert np.linalg.norm(found[name] - values) / size < 5e-6
        assert np.linalg.norm(plain[name] - values) / size > 0.05


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_no_rank_and_scales_of_zero_change_no_bit_in_float32(artefact, backend):
    if artefact.arithmetic != "float32":
        pytest.skip("in 16 bits the runtime keeps a graph of its own for this")
    graph, engine = artefact.graph_file("gen_step"), open_engine(backend, "cpu", Settings(stated="float32"))
    given, plain = inputs_of(artefact, engine), engine.load(graph)
    runner = engine.load(graph, None, thin_products(graph))
    for choice in ((), ((0, 0.0), (3, 0.0))):
        for name, values in run(plain, given).items():
            np.testing.assert_array_equal(run(runner, given, *choice)[name], values)


def test_a_graph_in_16_bits_adds_them_too(artefact):
    if artefact.arithmetic == "float32":
        pytest.skip("above")
    engine = open_engine("openvino", "cpu", Settings(stated=artefact.arithmetic))
    graph, given = artefact.graph_file("gen_step"), inputs_of(artefact, engine)
    runner = engine.load(graph, None, thin_products(graph))
    none, some, twice = (run(runner, given, *[(r, s) for r in range(RANKS)])["gen_out"] for s in (0.0, 1.0, 2.0))
    assert np.linalg.norm(some - none) / np.linalg.norm(none) > 0.05
    assert np.linalg.norm(twice - none) > 1.3 * np.linalg.norm(some - none)


def test_a_weight_without_a_product_is_named(small_artefact):
    graph = read_manifest(small_artefact).graph_file("gen_step")
    missing = LowRank({"other.weight": Thin(np.zeros((1, 64), np.float32), np.zeros((1, 64), np.float32))}, "c", "s")
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(EngineFailure, match=r"no product of rows with 'other.weight'"):
            open_engine(backend).load(graph, None, missing)

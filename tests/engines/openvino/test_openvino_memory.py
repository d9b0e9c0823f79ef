"""What the OpenVINO engine does to a graph so that it takes less memory, and that it changes no number."""

from __future__ import annotations

import numpy as np
import openvino
import pytest

from bagel_engines import Settings, open_engine
from bagel_engines.number_formats import narrowed
from bagel_engines.openvino.arithmetic import changes_numbers
from bagel_engines.openvino.split_new_kv import take_apart
from bagel_rt.artefact.contract import GEN_STEP, LM_HEAD, UND_STEP, graph_specs
from bagel_rt.artefact.example_inputs import example_inputs
from bagel_rt.artefact.manifest import read_manifest


@pytest.fixture
def manifest(small_artefact):
    return read_manifest(small_artefact)


def read(manifest, graph):
    return openvino.Core().read_model(str(manifest.graph_file(graph)))


@pytest.mark.parametrize("graph, each", [(GEN_STEP, 2), (UND_STEP, 1)])
def test_new_keys_and_values_leave_a_step_graph_layer_by_layer(manifest, graph, each):
    parts = take_apart(read(manifest, graph), "float32")
    assert [len(half) for half in parts.halves] == [each] * (2 * manifest.model.num_hidden_layers)


def test_a_graph_without_new_keys_and_values_is_left_as_it_is(manifest):
    assert take_apart(model := read(manifest, LM_HEAD), "float32") is None
    assert [port.any_name for port in model.outputs] == ["logits"]


@pytest.mark.parametrize("arithmetic", [None, *filter(changes_numbers, ("bfloat16", "float16"))])
@pytest.mark.parametrize("graph", [GEN_STEP, UND_STEP])
def test_parts_stack_to_what_the_graph_itself_stacks(manifest, monkeypatch, graph, arithmetic):
    from bagel_engines.openvino import engine

    spec = graph_specs(manifest.model)[graph]
    inputs = example_inputs(spec, 2 * manifest.model.num_hidden_layers)

    def run():
        engine = open_engine("openvino", settings=Settings(arithmetic=arithmetic))
        return engine.load(manifest.graph_file(graph)).run(inputs, [t.name for t in spec.outputs])

    parted = run()
    monkeypatch.setattr(engine, "take_apart", lambda model, arithmetic: None)
    for name, whole in run().items():
        assert parted[name].dtype == whole.dtype == np.float32
        assert np.array_equal(parted[name], whole), name


@pytest.mark.parametrize("arithmetic, kept", [("bfloat16", np.uint16), ("float16", np.float16)])
def test_sixteen_bit_arithmetic_keeps_its_pool_in_sixteen_bits_and_computes_the_same(
    manifest, hints_taken, arithmetic, kept
):
    engine = open_engine("openvino", settings=Settings(arithmetic=arithmetic))
    model = manifest.model
    halves, row = 2 * model.num_hidden_layers, (model.num_key_value_heads, model.head_dim)
    inputs = example_inputs(graph_specs(model)[GEN_STEP], halves)
    pool = inputs["pool"].reshape(halves, -1, *row)
    cache = engine.cache(halves, pool.shape[1], row, np.dtype(np.float32))
    cache.write(np.arange(pool.shape[1]), pool)
    assert cache.tensor.dtype == kept
    assert np.array_equal(cache.read(np.arange(3)), as_float(narrowed(pool[:, :3], arithmetic), arithmetic))
    runner = engine.load(manifest.graph_file(GEN_STEP))
    given = [runner.run({**inputs, "pool": p}, ["gen_out"])["gen_out"] for p in (cache.tensor, inputs["pool"])]
    assert np.array_equal(*given)


def as_float(array: np.ndarray, arithmetic: str) -> np.ndarray:
    return (array.astype(np.uint32) << 16).view(np.float32) if arithmetic == "bfloat16" else array.astype(np.float32)

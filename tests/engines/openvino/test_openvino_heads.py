"""Attention on OpenVINO reads shared keys and values as they lie, and gives the same results."""

from __future__ import annotations

import numpy as np
import pytest

from bagel_engines import Settings, open_engine
from bagel_engines.openvino import engine
from bagel_rt.artefact.contract import GEN_STEP, graph_specs
from bagel_rt.artefact.example_inputs import SIZES, example_inputs
from bagel_rt.artefact.manifest import read_manifest

openvino = pytest.importorskip("openvino")


def kinds(model) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


def test_no_key_or_value_is_repeated(small_artefact):
    from bagel_engines.openvino.share_kv_heads import share_keys

    model = openvino.Core().read_model(str(small_artefact / "gen_step.onnx"))
    attention = kinds(model).count("ScaledDotProductAttention")
    assert kinds(model).count("Tile") == 2 * attention
    assert share_keys(model) == attention
    assert kinds(model).count("Tile") == 0
    assert kinds(model).count("ScaledDotProductAttention") == 0
    assert kinds(model).count("Softmax") == attention
    # once for the keys and once for the values of each layer's latents: all of the context, or none
    assert kinds(model).count("Minimum") == attention
    assert share_keys(model) == 0


def test_attention_without_shared_keys_is_left_alone(small_artefact):
    from bagel_engines.openvino.share_kv_heads import share_keys

    model = openvino.Core().read_model(str(small_artefact / "vit.onnx"))
    before = kinds(model)
    assert share_keys(model) == 0
    assert kinds(model) == before


@pytest.mark.parametrize(("arithmetic", "apart"), [("float32", 1e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize(("und", "gen", "past"), [(1, 0, 30), (7, 0, 0), (2, 9, 21)])
def test_results_are_those_of_the_engines_own_attention(
    small_artefact, monkeypatch, hints_taken, arithmetic, apart, und, gen, past
):
    manifest = read_manifest(small_artefact)
    spec, halves = graph_specs(manifest.model)[GEN_STEP], 2 * manifest.model.num_hidden_layers
    inputs = example_inputs(spec, halves, sizes={**SIZES, "und_rows": und, "gen_rows": gen, "past": past})

    def run() -> dict[str, np.ndarray]:
        engine = open_engine("openvino", settings=Settings(arithmetic=arithmetic))
        return engine.load(small_artefact / "gen_step.onnx").run(inputs, [t.name for t in spec.outputs])

    shared = run()
    monkeypatch.setattr(engine, "share_keys", lambda model: 0)
    for name, array in run().items():
        assert np.linalg.norm(array - shared[name]) <= apart * np.linalg.norm(array), name

"""The contract stays buildable for NVIDIA GPUs: lint, parse and build in bf16. Built, not executed."""

from __future__ import annotations

import pytest
from generators import drain

from bagel_engines.tensorrt.lint import build, lint
from bagel_export.artefact.export import model_dims, write_graphs
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.quantization.precision import precision_named
from bagel_export.quantization.recipe import recipe_for
from bagel_export.weights.write import WEIGHT_FILE, write_weights
from bagel_rt.artefact.contract import FLOW_EMBED, FLOW_HEAD, GEN_STEP, TASK_GRAPHS, UND_STEP, VAE_DECODER, graph_specs
from bagel_rt.tensorrt.profiles import largest, profiles

BUILT = (UND_STEP, GEN_STEP, FLOW_EMBED, FLOW_HEAD, VAE_DECODER)


@pytest.fixture(scope="module")
def bf16_graphs(golden_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bf16")
    checkpoint = open_checkpoint(golden_checkpoint)
    precision = precision_named("bf16")
    recipe = recipe_for(checkpoint.tensors, precision)
    offsets = drain(write_weights(checkpoint.tensors, folder / WEIGHT_FILE, recipe))
    drain(write_graphs(checkpoint, folder, offsets, BUILT, precision, recipe, verify=False))
    return folder, checkpoint


@pytest.mark.parametrize("name", BUILT)
def test_the_graph_builds_in_bf16_with_its_real_profiles(bf16_graphs, name, capsys):
    folder, checkpoint = bf16_graphs
    model = model_dims(checkpoint)
    spec = graph_specs(model, "bfloat16")[name]
    report = build(folder / f"{name}.onnx", profiles(spec, model, largest(model)))
    with capsys.disabled():  # part of what a run reports
        print(f"\n{report}")
    assert report.built, report
    assert "built, not executed" in str(report)


@pytest.mark.parametrize("name", TASK_GRAPHS["full"])
def test_no_exported_graph_holds_a_known_tensorrt_trap(golden_artefact, name):
    assert lint(golden_artefact / f"{name}.onnx") == []


def test_the_build_check_refuses_a_graph_that_cannot_be_parsed(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph at all")
    assert not build(broken, []).built


def test_the_lint_finds_a_planted_causal_attention(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, "n", 8])  # noqa: E731
    node = helper.make_node("Attention", ["q", "k", "v"], ["out"], "causal", is_causal=1)
    graph = helper.make_graph([node], "planted", [value("q"), value("k"), value("v"), value("unread")], [value("out")])
    path = tmp_path / "planted.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)]), path)
    found = lint(path)
    assert any("is_causal" in line for line in found)
    assert any("unread" in line for line in found)

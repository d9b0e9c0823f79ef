"""NVIDIA's own inspection tools take the artefact's graphs as they are."""

from __future__ import annotations

import numpy as np
import pytest
from polygraphy.comparator import RunResults
from polygraphy.json import save_json
from polygraphy.tools import main as polygraphy

from bagel_engines import open_engine
from bagel_rt.artefact.contract import TASK_GRAPHS, graph_specs
from bagel_rt.artefact.example_inputs import example_inputs
from bagel_rt.artefact.manifest import read_manifest


@pytest.mark.parametrize("name", TASK_GRAPHS["full"])
def test_polygraphy_inspects_a_graph_and_names_the_contract(small_artefact, name, capfd):
    spec = graph_specs(read_manifest(small_artefact).model)[name]
    assert polygraphy(["inspect", "model", str(small_artefact / f"{name}.onnx"), "--show", "layers"]) == 0
    told = capfd.readouterr().out
    for tensor in (*spec.inputs, *spec.outputs):
        assert f"{tensor.name} [dtype=" in told, tensor.name


@pytest.mark.parametrize("name", TASK_GRAPHS["full"])
def test_polygraphy_runs_a_graph_on_onnx_runtime_to_what_our_engine_computes(small_artefact, tmp_path, name):
    model, graph = read_manifest(small_artefact).model, small_artefact / f"{name}.onnx"
    spec = graph_specs(model)[name]
    inputs = example_inputs(spec, 2 * model.num_hidden_layers)
    save_json([inputs], str(tmp_path / "inputs.json"))
    files = ["--load-inputs", str(tmp_path / "inputs.json"), "--save-outputs", str(tmp_path / "outputs.json")]
    assert polygraphy(["run", str(graph), "--onnxrt", *files]) == 0
    ((_, iterations),) = RunResults.load(str(tmp_path / "outputs.json")).items()
    wanted = open_engine("onnxruntime").load(graph).run(inputs, [t.name for t in spec.outputs])
    assert set(wanted) == set(iterations[0])
    for output, values in wanted.items():
        assert np.allclose(iterations[0][output], values, rtol=1e-4, atol=1e-4)

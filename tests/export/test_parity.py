"""The comparison at export time, of every output of every graph, with graphs that are wrong on purpose."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from sizes import dims

from bagel_export.artefact import parity
from bagel_export.artefact.export import model_dims
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.onnx import wrappers
from bagel_export.quantization.precision import precision_named
from bagel_export.quantization.recipe import Treated, recipe_for
from bagel_rt.artefact.contract import GEN_STEP, LM_HEAD, UND_STEP, VAE_DECODER, VIT, graph_specs

OUTPUTS = [
    (name, output.name)
    for name in (VIT, UND_STEP, GEN_STEP, LM_HEAD, VAE_DECODER)
    for output in graph_specs(dims())[name].outputs
]


@pytest.fixture(scope="module")
def compared(small_checkpoint, small_artefact):
    """Compares a graph file with the reference."""
    checkpoint, precision = open_checkpoint(small_checkpoint), precision_named("fp32")
    recipe = recipe_for(checkpoint.tensors, precision)
    model, vae = checkpoint.meta_model(), checkpoint.meta_vae()
    sources = checkpoint.by_parameter()
    kept = {name: Treated(source, recipe[source.name]) for name, source in sources.items()}
    size = model_dims(checkpoint)

    def compare(name: str, path: Path) -> dict:
        module = wrappers.build(name, model, vae)
        return parity.compare(
            graph_specs(size)[name], module, path, kept, 1 << 20, 2 * size.num_hidden_layers, precision
        )

    return compare


def spoilt(path: Path, folder: Path, output: str, factor: float) -> Path:
    """The same graph, one of its outputs multiplied by a factor."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["right" if name == output else name for name in node.output]
        node.input[:] = ["right" if name == output else name for name in node.input]
    graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
    graph.node.append(helper.make_node("Mul", ["right", "factor"], [output]))
    # not a second link to the file, which the onnx package would refuse in tests that come later
    shutil.copyfile(path.parent / "weights.safetensors", folder / "weights.safetensors")
    onnx.save(model, folder / path.name)
    return folder / path.name


@pytest.mark.parametrize("name, output", OUTPUTS)
def test_a_graph_of_which_any_one_output_is_wrong_fails(compared, small_artefact, tmp_path, name, output):
    wrong = spoilt(small_artefact / f"{name}.onnx", tmp_path, output, 1.0005)
    found = compared(name, wrong)
    assert found["status"] == "failed"
    assert found["relative_l2"] == pytest.approx(5e-4, rel=0.1)


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _ in OUTPUTS))
def test_a_right_graph_is_verified_and_its_distance_is_that_of_the_worst_output(compared, small_artefact, name):
    found = compared(name, small_artefact / f"{name}.onnx")
    assert found["status"] == "verified"
    assert 0 < found["relative_l2"] < 1e-5

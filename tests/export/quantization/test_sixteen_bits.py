"""bf16 and fp16 artefacts: what is stored, what crosses the graphs' borders, and how far results move."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from golden_cases import distance
from hypothesis import given, settings
from hypothesis import strategies as st

import bagel_rt
from bagel_engines.number_formats import KEPT_AS, narrowed, widened
from bagel_engines.openvino.arithmetic import native
from bagel_engines.tensorrt.lint import lint
from bagel_export.artefact.export import export
from bagel_export.quantization.precision import precision_named
from bagel_rt.artefact.contract import TASK_GRAPHS, VAE_DECODER, graph_specs
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.files.safetensors_file import read_header

BACKENDS = {"bf16": "openvino", "fp16": "onnxruntime"}
TENSOR = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "int64": onnx.TensorProto.INT64,
    "bool": onnx.TensorProto.BOOL,
}


@pytest.fixture(scope="module", params=["bf16", "fp16"])
def artefact(request, small_checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("artefact") / request.param
    for _ in export(small_checkpoint, out, precision=request.param):
        pass
    return request.param, out


def test_every_graph_is_verified_against_the_reference_with_the_rounded_weights(artefact):
    name, folder = artefact
    for graph, entry in read_manifest(folder).graphs.items():
        assert entry["parity"]["status"] == "verified", graph
        assert entry["parity"]["relative_l2"] < precision_named(name).tolerance / 2, graph


@pytest.mark.parametrize("graph", TASK_GRAPHS["full"])
def test_only_the_cache_crosses_a_graphs_border_in_sixteen_bits(artefact, graph):
    _, folder = artefact
    manifest = read_manifest(folder)
    spec = graph_specs(manifest.model, manifest.arithmetic)[graph]
    stored = onnx.load(folder / f"{graph}.onnx", load_external_data=False).graph
    for value, tensor in zip([*stored.input, *stored.output], [*spec.inputs, *spec.outputs], strict=True):
        assert value.type.tensor_type.elem_type == TENSOR[tensor.dtype], value.name
    sixteen = {t.name for t in (*spec.inputs, *spec.outputs) if t.dtype in ("bfloat16", "float16")}
    assert sixteen <= {"pool", "new_kv"}
    assert lint(folder / f"{graph}.onnx") == []


def test_weights_are_stored_in_sixteen_bits_but_an_fp16_artefact_keeps_its_vae_exact(artefact):
    name, folder = artefact
    tag = {"bf16": "BF16", "fp16": "F16"}[name]
    for tensor, stored in read_header(folder / "weights.safetensors").items():
        exact = name == "fp16" and tensor.startswith("vae.")
        assert stored.dtype == ("F32" if exact else tag), tensor
    graph = onnx.load(folder / f"{VAE_DECODER}.onnx", load_external_data=False).graph
    kinds = {t.data_type for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
    assert kinds == {TENSOR["float32" if name == "fp16" else "bfloat16"]}


def test_a_picture_is_close_to_the_one_of_float32_and_an_answer_is_given(artefact, small_artefact):
    name, folder = artefact
    options = {"seed": 3, "height": 64, "width": 64, "num_timesteps": 6}
    with bagel_rt.load(small_artefact, "onnxruntime") as exact, bagel_rt.load(folder, BACKENDS[name]) as half:
        here = name == "fp16" or native("bfloat16")  # else its numbers are computed with in float32, and said to be
        assert (half.manifest.arithmetic if here else "float32") in half.engine
        wanted = exact.generate("a red circle", **options)
        got = half.generate("a red circle", **options)
        assert 1e-6 < distance(got.latent, wanted.latent) < 0.05
        edited = half.edit(wanted.image, "make it blue", seed=1, num_timesteps=4)
        assert np.asarray(edited.image).std() > 0
        assert half.ask("what is this?", wanted.image, max_tokens=5).token_ids
        assert half.free_tokens == exact.free_tokens


def test_openvino_computes_a_bf16_artefact_in_float32_when_asked_to(artefact, small_artefact):
    _, folder = artefact
    options = {"seed": 3, "height": 64, "width": 64, "num_timesteps": 4}
    with bagel_rt.load(folder, "openvino", arithmetic="float32") as bagel:
        assert "float32" in bagel.engine
        got = bagel.generate("a red circle", **options)
    with bagel_rt.load(small_artefact, "openvino") as bagel:
        assert distance(got.latent, bagel.generate("a red circle", **options).latent) < 0.05


def test_onnx_runtime_on_a_cpu_refuses_bfloat16_and_says_what_to_do(artefact):
    name, folder = artefact
    if name == "fp16":
        with bagel_rt.load(folder, "onnxruntime") as bagel:
            assert "float16" in bagel.engine
        return
    with pytest.raises(bagel_rt.EngineUnavailableError, match=r"no bfloat16 kernels for the CPU.*--backend openvino"):
        bagel_rt.load(folder, "onnxruntime")


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(-3e4, 3e4, width=32), min_size=1, max_size=40), st.sampled_from(sorted(KEPT_AS)))
def test_kept_numbers_come_back_within_their_formats_rounding(values, dtype):
    array = np.array(values, np.float32)
    kept = narrowed(array, dtype)
    assert kept.dtype == KEPT_AS[dtype]
    relative = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    smallest = {"float32": 0.0, "float16": 2.0**-25, "bfloat16": 1e-38}[dtype]
    assert np.all(np.abs(widened(kept, dtype) - array) <= np.abs(array) * relative + smallest)
    assert np.array_equal(narrowed(widened(kept, dtype), dtype), kept)

"""ONNX Runtime's attention in a loop: the same results from a bounded number of scores, and from no queries at all."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from bagel_engines import EngineFailure, open_engine
from bagel_engines.onnxruntime.prepared_graph import WEIGHTS_BESIDE, prepared
from bagel_rt.artefact.contract import GEN_STEP, UND_STEP, VAE_DECODER, VIT, graph_specs
from bagel_rt.artefact.example_inputs import SIZES, example_inputs
from bagel_rt.artefact.manifest import read_manifest

PEAK = """
import re, sys
import numpy as np, onnxruntime
from bagel_engines.onnxruntime.prepared_graph import prepared
from pathlib import Path
graph, looped = sys.argv[1:]
session = onnxruntime.InferenceSession(prepared(Path(graph)).model if looped == "yes" else graph)
random = np.random.default_rng(0)
session.run(None, {name: random.standard_normal((1, 8, 6144, 16), np.float32) for name in "qkv"})
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def session(model: bytes, folder):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(WEIGHTS_BESIDE, str(folder))
    return onnxruntime.InferenceSession(model, options)


@pytest.mark.parametrize("name", [GEN_STEP, UND_STEP, VIT, VAE_DECODER])
@pytest.mark.parametrize("scores", [1, 300, 1 << 25])
def test_a_graph_with_looped_attention_gives_what_the_graph_gives(small_artefact, name, scores):
    manifest = read_manifest(small_artefact)
    inputs = example_inputs(graph_specs(manifest.model)[name], 2 * manifest.model.num_hidden_layers)
    wanted = session((small_artefact / f"{name}.onnx").read_bytes(), small_artefact).run(None, inputs)
    found = session(prepared(small_artefact / f"{name}.onnx", scores).model, small_artefact).run(None, inputs)
    for a, b in zip(wanted, found, strict=True):
        assert np.linalg.norm(a - b) <= 3e-6 * np.linalg.norm(a)
        if scores == 1 << 25:  # all queries in one turn
            assert np.array_equal(a, b)


def test_gen_step_without_latents_is_und_step(small_artefact):
    manifest = read_manifest(small_artefact)
    specs, halves = graph_specs(manifest.model), 2 * manifest.model.num_hidden_layers
    inputs = example_inputs(specs[GEN_STEP], halves, sizes={**SIZES, "gen_rows": 0})
    und = {name: array for name, array in inputs.items() if not name.startswith("gen")}
    rows, latents, kept = session(prepared(small_artefact / "gen_step.onnx").model, small_artefact).run(None, inputs)
    alone, kept_alone = session((small_artefact / "und_step.onnx").read_bytes(), small_artefact).run(None, und)
    assert latents.shape == (0, manifest.model.hidden_size)
    assert np.array_equal(rows, alone)
    assert np.array_equal(kept, kept_alone)


def test_without_the_onnx_package_the_engine_reads_graphs_as_they_are(small_artefact, monkeypatch):
    from bagel_engines.onnxruntime import cpu_engine

    assert open_engine("onnxruntime").takes_zero_rows
    monkeypatch.setattr(cpu_engine, "possible", lambda: False)
    engine = open_engine("onnxruntime")
    assert not engine.takes_zero_rows
    assert engine.load(small_artefact / "und_step.onnx").outputs == ("und_out", "new_kv")


def test_a_file_that_is_no_graph_is_named(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"\xff\xff\xff")
    with pytest.raises(EngineFailure, match=r"broken\.onnx is not an ONNX graph"):
        prepared(tmp_path / "broken.onnx")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_long_attention_takes_less_memory_in_a_loop(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, None, 16]) for name in "qkv"]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Attention", list("qkv"), ["y"])], "g", inputs, [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10), tmp_path / "g.onnx")

    def peak(looped: str) -> int:
        command = [sys.executable, "-c", PEAK, str(tmp_path / "g.onnx"), looped]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(re.findall(r"\d+", done.stdout)[-1]) << 10

    assert peak("yes") < peak("no") - (512 << 20)  # 1152 MiB of scores, of which 128 are kept at once

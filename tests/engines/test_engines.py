"""One engine against the other, and the seam's edges."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from golden_cases import distance

import bagel_rt
from bagel_engines import EngineFailure, open_engine, select
from bagel_rt.artefact.contract import GEN_STEP, TASK_GRAPHS, UND_STEP, VIT, graph_specs
from bagel_rt.artefact.example_inputs import example_inputs
from bagel_rt.artefact.manifest import read_manifest

NEAR = 1e-5  # relative L2; 2e-6 was measured for the VAE's decoder, 4e-7 for the other graphs


@pytest.fixture(scope="module")
def specs(small_artefact):
    model = read_manifest(small_artefact).model
    return graph_specs(model), 2 * model.num_hidden_layers


@pytest.mark.parametrize("name", TASK_GRAPHS["full"])
def test_both_engines_compute_the_same(small_artefact, specs, name):
    spec, inputs = specs[0][name], example_inputs(specs[0][name], specs[1])
    outputs = [t.name for t in spec.outputs]
    one, other = (open_engine(e).load(small_artefact / f"{name}.onnx") for e in ("onnxruntime", "openvino"))
    for key, value in one.run(inputs, outputs).items():
        assert distance(other.run(inputs, outputs)[key], value) < NEAR, key


@pytest.mark.parametrize("rows", [1, 2, 35])
def test_the_vit_is_right_on_openvino_whatever_its_first_call(small_artefact, specs, rows):
    """2026.4.1 specialises on a first call with one patch and is wrong ever after; loading primes it."""
    random = np.random.default_rng(rows)
    model = read_manifest(small_artefact).model
    first, second = (
        {
            "patches": random.standard_normal((n, model.patch_width)).astype(np.float32),
            "position_ids": np.arange(n, dtype=np.int64),
        }
        for n in (rows, 21)
    )
    with bagel_rt.load(small_artefact, backend="openvino") as ov, bagel_rt.load(small_artefact, "onnxruntime") as ort:
        for inputs in (first, second):
            assert distance(ov.graphs(VIT, **inputs)[0], ort.graphs(VIT, **inputs)[0]) < NEAR


@pytest.mark.parametrize("rows, past", [(1, 0), (1, 9), (4, 21), (7, 0)])
def test_gen_step_without_latents_is_und_step_where_the_engine_takes_zero_rows(small_artefact, specs, rows, past):
    spec, halves = specs
    inputs = example_inputs(spec[UND_STEP], halves)
    random = np.random.default_rng(0)
    inputs["und"] = random.standard_normal((rows, inputs["und"].shape[1])).astype(np.float32)
    for name in ("und_cos", "und_sin"):
        inputs[name] = np.resize(inputs[name], (rows, inputs[name].shape[1]))
    inputs["slots"] = inputs["slots"][:past]
    inputs["mask"] = np.tri(rows, past + rows, past, dtype=bool)
    engine = open_engine("openvino")
    assert engine.takes_zero_rows
    empty = {name: inputs[f"und{name[3:]}"][:0] for name in ("gen", "gen_cos", "gen_sin")}
    got = engine.load(small_artefact / "gen_step.onnx").run({**inputs, **empty}, ["und_out", "new_kv"])
    wanted = open_engine("onnxruntime").load(small_artefact / "und_step.onnx").run(inputs, ["und_out", "new_kv"])
    for key, value in wanted.items():
        assert distance(got[key], value) < NEAR, key


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_steps_time_does_not_depend_on_the_pools_size(small_artefact, backend):
    import statistics
    import time

    def step_ms(bagel) -> float:
        marks = []
        note = lambda event: marks.append(time.perf_counter()) if event.stage == "drawing" else None  # noqa: E731
        bagel.generate("pool", seed=1, height=64, width=64, num_timesteps=20, on_progress=note)
        return 1e3 * statistics.median(b - a for a, b in itertools.pairwise(marks))

    with (
        bagel_rt.load(small_artefact, backend, cache_tokens=512) as small,
        bagel_rt.load(small_artefact, backend, cache_tokens=400_000) as large,  # 400 MB: a copy would take 40 ms
    ):
        step_ms(small), step_ms(large)
        pairs = [(step_ms(small), step_ms(large)) for _ in range(5)]
    assert statistics.median(b for _, b in pairs) < 2 * statistics.median(a for a, _ in pairs) + 2


def test_other_arithmetic_is_named_in_the_result(small_artefact, hints_taken):
    options = {"seed": 1, "height": 64, "width": 64, "num_timesteps": 3}
    with bagel_rt.load(small_artefact, "openvino") as exact:
        assert exact.generate("a", **options).engine.endswith("(cpu, float32)")
    with bagel_rt.load(small_artefact, "openvino", arithmetic="bfloat16") as fast:
        result = fast.generate("a", **options)
    assert "(cpu, bfloat16" in result.engine  # and how many products were not, on a CPU without it
    assert result.metadata()["engine"] == result.engine


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"backend": "tensorflow"}, "'tensorflow' is unknown; allowed: auto, openvino, onnxruntime"),
        ({"backend": "onnxruntime", "device": "cuda"}, "installed without CUDA"),
        ({"backend": "openvino", "device": "gpu"}, "device 'gpu' is not supported"),
        ({"backend": "onnxruntime", "arithmetic": "bfloat16"}, "needs openvino"),
        ({"backend": "openvino", "arithmetic": "int3"}, "'int3' is unknown; allowed: float32, bfloat16"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_by_name(small_artefact, arguments, message):
    with pytest.raises(bagel_rt.EngineError, match=message):
        bagel_rt.load(small_artefact, **arguments)


def test_a_missing_engine_names_the_extra_to_install(monkeypatch):
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    with pytest.raises(EngineFailure, match=r"pip install 'bagel-rt\[openvino\]'"):
        open_engine("openvino")
    with pytest.raises(EngineFailure, match=r"no engine is installed.*bagel-rt\[cpu\]"):
        open_engine("auto")


def test_auto_takes_the_fastest_installed(monkeypatch):
    assert open_engine("auto").info.name == "openvino"
    monkeypatch.setattr(select, "installed", lambda: ["onnxruntime"])
    assert open_engine("auto").info.name == "onnxruntime"


def test_a_failing_call_is_one_named_error_and_the_next_call_works(small_bagel):
    model = small_bagel.manifest.model
    with pytest.raises(bagel_rt.EngineError, match="vit"):
        small_bagel.graphs(VIT, patches=np.zeros((2, 5), np.float32), position_ids=np.arange(2))
    rows = small_bagel.graphs(
        VIT, patches=np.zeros((2, model.patch_width), np.float32), position_ids=np.arange(2, dtype=np.int64)
    )
    assert np.isfinite(rows[0]).all()


def test_a_graph_that_does_not_speak_the_contract_is_refused(small_artefact, tmp_path):
    import shutil

    shutil.copytree(small_artefact, tmp_path / "swapped")
    shutil.copy(small_artefact / "und_step.onnx", tmp_path / "swapped" / "gen_step.onnx")
    (tmp_path / "swapped" / "bagel_rt.json").write_text(
        (small_artefact / "bagel_rt.json")
        .read_text()
        .replace(
            f'"size": {(small_artefact / "gen_step.onnx").stat().st_size}',
            f'"size": {(small_artefact / "und_step.onnx").stat().st_size}',
        )
    )
    with bagel_rt.load(tmp_path / "swapped", "onnxruntime") as bagel:
        with pytest.raises(bagel_rt.ArtefactError, match=r"gen_step\.onnx: its inputs are"):
            bagel.graphs.open(GEN_STEP)

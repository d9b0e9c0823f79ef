"""The TensorRT backend around an engine that OpenVINO stands in for: plans, profiles, addresses; not TensorRT."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import fake_tensorrt
import numpy as np
import pytest
import tensorrt_contract
import tensorrt_rtx
import tensorrt_standin
from golden_cases import distance
from tensorrt_standin import GPU

import bagel_rt
from bagel_engines import EngineFailure, EngineInfo, open_engine
from bagel_engines.device.arrays import HostMemory
from bagel_engines.tensorrt import plan_builder
from bagel_engines.tensorrt.engine import TIMING_CACHE, TensorRtEngine, plan_file
from bagel_engines.tensorrt.plan_builder import BuildSettings, Flavour
from bagel_engines.tensorrt.plan_store import PlanKey, PlanStore, Target, standing
from bagel_rt.api import Bagel
from bagel_rt.artefact.contract import GEN_STEP, graph_specs
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.cli import main
from bagel_rt.model.graphs import Graphs
from bagel_rt.tensorrt.profiles import largest, profiles
from bagel_rt.tensorrt.stores import limits_of, plans_for

PICTURE = {"seed": 3, "height": 64, "width": 64, "num_timesteps": 5}
DECODE, PREFILL, DENOISE = range(3)


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch):
    monkeypatch.setattr(fake_tensorrt.Runtime, "log", [])


def opened(artefact, **plans) -> Bagel:
    manifest = read_manifest(artefact)
    told = plans_for(manifest, pool_tokens=4096, **plans)
    engine = TensorRtEngine(
        tensorrt_standin.FAKE, told, GPU, HostMemory(), EngineInfo("tensorrt", "11.4.0", "cuda:0", "float32")
    )
    return Bagel(manifest, Graphs(manifest, engine), 4096)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pictures_edits_and_answers_are_those_of_the_engine_behind_the_plans(small_artefact, bf16_artefact, precision):
    artefact = small_artefact if precision == "fp32" else bf16_artefact
    with opened(artefact) as plans, bagel_rt.load(artefact, "openvino", arithmetic="float32") as plain:
        drawn = [b.generate("a red circle", **PICTURE) for b in (plans, plain)]
        assert distance(drawn[0].latent, drawn[1].latent) < 1e-5
        edited = [b.edit(drawn[1].image, "make it blue", seed=1, num_timesteps=4).latent for b in (plans, plain)]
        assert distance(*edited) < 1e-5
        answers = [b.ask("what is it?", drawn[1].image, max_tokens=5).token_ids for b in (plans, plain)]
        assert answers[0] == answers[1]
        assert plans.free_tokens == 4096
    assert {p for g, p in fake_tensorrt.Runtime.log if g == GEN_STEP} == {DECODE, PREFILL, DENOISE}


def test_a_plan_is_built_once_and_used_again(small_artefact, monkeypatch):
    steps = []
    with opened(small_artefact, on_step=lambda *step: steps.append(step)) as bagel:
        first = bagel.generate("a red circle", **PICTURE).latent
    assert ("gen_step", "building", 1, 2) in steps
    monkeypatch.setattr(plan_builder, "build", lambda *a: pytest.fail("built again"))
    with opened(small_artefact) as bagel:
        assert np.array_equal(bagel.generate("a red circle", **PICTURE).latent, first)


def test_weights_are_given_to_the_parser_where_they_lie_and_timings_are_kept(small_artefact):
    with opened(small_artefact) as bagel:
        bagel.generate("a red circle", **PICTURE)
        plans = plans_for(bagel.manifest)
    (path,) = plans.folder.glob("gen_step-*.plan")
    assert json.loads(path.read_text())["weights"] > 20
    assert (plans.folder / TIMING_CACHE).read_bytes().count(b".") >= 4
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["key"]["target"] == asdict(GPU)


def test_a_plan_is_not_executed_until_it_has_run_and_info_says_which_it_is(small_artefact, capsys):
    manifest = read_manifest(small_artefact)
    plan_file(tensorrt_standin.FAKE, manifest.graph_file("und_step"), plans_for(manifest, pool_tokens=4096), GPU)
    assert main(["info", str(small_artefact)]) == 0
    assert (
        f"for {GPU.gpu}: built with tensorrt {tensorrt_standin.FAKE.version}, not executed" in capsys.readouterr().out
    )
    with opened(small_artefact) as bagel:
        bagel.generate("a red circle", **PICTURE)
    assert main(["info", "--json", str(small_artefact)]) == 0
    states = {plan["key"]["graph"]: plan["executed"] for plan in json.loads(capsys.readouterr().out)["plans"]}
    assert (states["und_step"], states["gen_step"]) == (False, True)
    assert main(["info", str(small_artefact)]) == 0
    assert "executed, not compared" in capsys.readouterr().out


def test_what_a_comparison_found_of_a_plan_is_told_in_a_few_words():
    found = {"reference": "onnxruntime 1.31.1 (cpu, float32)", "date": "2026-01-02T03:04:05+00:00"}
    told = [standing({"executed": True, "compared": {**found, "passed": passed}}) for passed in (True, False)]
    assert told[0] == "agrees with onnxruntime 1.31.1 (cpu, float32) (2026-01-02)"
    assert told[1].startswith("DIFFERS from onnxruntime")


def key(**values) -> PlanKey:
    settings = BuildSettings(({"x": ((1,), (2,), (3,))},))
    return replace(PlanKey("model", "gen_step", "tensorrt", "11.4.0", GPU, settings), **values)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "retrained"},
        {"graph": "und_step"},
        {"flavour": "tensorrt-rtx"},
        {"version": "11.5.0"},
        {"target": replace(GPU, driver="13.1")},
        {"target": replace(GPU, gpu="another card")},
        {"settings": BuildSettings(({"x": ((1,), (2,), (4,))},))},
        {"settings": BuildSettings(({"x": ((1,), (2,), (3,))},), weight_streaming=True)},
        {"settings": BuildSettings(({"x": ((1,), (2,), (3,))},), architecture="SM89")},
        {"settings": BuildSettings(({"x": ((1,), (2,), (3,))},), here="SM120")},
    ],
)
def test_a_plan_for_anything_else_is_not_used(tmp_path, other):
    store = PlanStore(tmp_path)
    store.save(key(), b"plan")
    assert store.find(key()) is not None
    assert store.find(key(**other)) is None


def test_a_damaged_plan_or_record_is_not_used(tmp_path):
    store = PlanStore(tmp_path)
    path = store.save(key(), b"plan")
    path.write_bytes(b"pla")
    assert store.find(key()) is None
    store.save(key(), b"plan")
    path.with_suffix(".json").write_text("{")
    assert store.find(key()) is None
    store.save(key(), b"plan")
    store.note(key(), executed=True)
    assert store.record(key())["executed"] is True


def test_what_several_find_out_about_a_plan_at_once_is_all_kept(tmp_path, monkeypatch):
    store = PlanStore(tmp_path)
    store.save(key(), b"plan")
    read = PlanStore.record
    monkeypatch.setattr(PlanStore, "record", lambda *given: (read(*given), time.sleep(0.02))[0])  # others come between
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: PlanStore(tmp_path).note(key(), **{f"fact_{i}": i}), range(8)))
    assert {f"fact_{i}" for i in range(8)} <= store.record(key()).keys()


def test_a_request_larger_than_the_plan_says_how_to_build_for_it(small_artefact):
    manifest = read_manifest(small_artefact)
    small = limits_of(manifest, 32, 32, None, 4096)
    with opened(small_artefact, limits=small) as bagel:
        with pytest.raises(bagel_rt.EngineError, match=r"built for other sizes.*--max-height"):
            bagel.generate("a red circle", **PICTURE)


def test_profiles_cover_decoding_prefill_and_denoising_of_the_largest_request(small_artefact):
    manifest = read_manifest(small_artefact)
    model, most = manifest.model, largest(manifest.model)
    found = profiles(graph_specs(model)[GEN_STEP], model, most)
    rows = (most.max_height // model.latent_stride) ** 2
    assert [p["gen"][2][0] for p in found] == [0, 0, rows]
    assert found[DECODE]["und"][0][0] == 1
    assert found[DECODE]["und"][2][0] == 8  # never 1..1
    assert found[DENOISE]["mask"][2] == (2, most.max_context + 2 + rows)
    assert all(low[0] <= usual[0] <= high[0] for p in found for low, usual, high in p.values())


def test_limits_a_model_cannot_reach_are_refused(small_artefact):
    manifest = read_manifest(small_artefact)
    with pytest.raises(bagel_rt.InputError, match=r"max_height 24 is not possible: multiples of 16 up to \d+ are"):
        limits_of(manifest, 24, None, None, 4096)
    with pytest.raises(bagel_rt.InputError, match="max_context 5000 is not possible"):
        limits_of(manifest, None, None, 5000, 4096)


def test_the_backend_says_what_is_missing(small_artefact, monkeypatch):
    monkeypatch.setattr(plan_builder, "find_spec", lambda name: None)
    with pytest.raises(bagel_rt.EngineUnavailableError, match=r"TensorRT is not installed; run: pip install"):
        bagel_rt.load(small_artefact, "tensorrt")
    monkeypatch.undo()
    with pytest.raises(bagel_rt.EngineUnavailableError, match=r"no NVIDIA driver was found"):
        bagel_rt.load(small_artefact, "tensorrt")
    with pytest.raises(EngineFailure, match=r"open it through bagel_rt\.load"):
        open_engine("tensorrt")


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def real(request):
    """The real bindings of either flavour, to be read."""
    if request.param == "tensorrt-rtx":
        return tensorrt_rtx
    return tensorrt_contract.bindings()


def test_every_call_of_the_backend_is_one_that_the_real_bindings_take(small_artefact, real, monkeypatch):
    monkeypatch.setattr(fake_tensorrt.Engine, "api", real)
    api = tensorrt_contract.WatchedModule(real, fake_tensorrt.module())
    monkeypatch.setattr(tensorrt_standin, "FAKE", Flavour("tensorrt", api))
    with opened(small_artefact, on_step=lambda *step: None, budget=1 << 20) as bagel:
        picture = bagel.generate("a red circle", **PICTURE).image
        assert bagel.ask("what is it?", picture, max_tokens=3).token_ids
    called = {call.partition(".")[0] for call in api.calls}
    assert called >= {"Builder", "OnnxParser", "IBuilderConfig", "IOptimizationProfile", "Runtime", "ICudaEngine"}
    assert api.calls.count("IExecutionContext.execute_async_v3") > 10


@pytest.mark.parametrize(
    "mistake, told",
    [
        (lambda trt, b: b.create_netwrk(0), "Builder has no create_netwrk"),
        (lambda trt, b: b.create_network("0"), "flags is typing.SupportsInt, not str"),
        (lambda trt, b: b.create_network(0, 1), "takes 1 arguments"),
        (lambda trt, b: b.create_network(flag=0), "no argument flag"),
        (lambda trt, b: b.build_serialized_network(b.create_network(1)), "lacks config"),
        (lambda trt, b: b.build_serialized_network(b.create_builder_config(), b.create_network(1)), "network is INet"),
        (lambda trt, b: b.create_builder_config().set_flag(1), "flag is BuilderFlag, not int"),
        (lambda trt, b: setattr(b.create_builder_config(), "num_optimization_profiles", 2), "cannot be set"),
        (lambda trt, b: setattr(b.create_builder_config(), "progress_monitor", 2), "cannot be 2"),
        (lambda trt, b: trt.BuilderFlag.FP16, "FP16"),
        (lambda trt, b: trt.IInt8Calibrator, "has no IInt8Calibrator"),
    ],
)
def test_planted_mistakes_are_refused(real, mistake, told):
    trt = tensorrt_contract.WatchedModule(real, fake_tensorrt.module())
    builder = trt.Builder(real.Logger(real.Logger.ERROR))
    with pytest.raises(AttributeError, match=told):
        mistake(trt, builder)


@pytest.mark.slow
def test_build_makes_plans_for_another_gpu_and_says_they_were_not_executed(bf16_artefact, capsys):
    asked = ["build", "--model", str(bf16_artefact), "--sm", "SM120", "--only", "flow_head", "flow_embed"]
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert out.count("built with tensorrt-rtx") == 2
    assert out.count("not executed") == 2


def test_a_dry_run_says_which_plans_are_there_and_which_would_be_built(bf16_artefact, capsys, monkeypatch):
    monkeypatch.setattr(plan_builder, "build", lambda *a: pytest.fail("built"))
    manifest, found = read_manifest(bf16_artefact), plan_builder.flavour("tensorrt-rtx")
    plans = plans_for(manifest)
    there = plans.key(manifest.graph_file("flow_head"), found, Target.across("SM120"))
    PlanStore(plans.folder).save(there, b"x" * 2**20)
    asked = ["build", "--model", str(bf16_artefact), "--sm", "SM120", "--sm", "SM89", "--dry-run"]
    assert main([*asked, "--only", "flow_head", "flow_embed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [
        [graph, sm] for sm in ("SM120", "SM89") for graph in ("flow_head", "flow_embed")
    ]
    assert "1.0 MiB  built with tensorrt-rtx" in lines[0]
    weights = {graph: manifest.graphs[graph]["weight_bytes"] / 2**20 for graph in ("flow_head", "flow_embed")}
    assert f"to be built, of {weights['flow_embed']:.1f} MiB of weights" in lines[1]
    wanted = weights["flow_head"] + 2 * weights["flow_embed"]
    assert lines[4] == f"1 of 4 plans are there; nothing was built. To be built: of {wanted:.1f} MiB of weights"
    assert main([*asked, "--sm", "SM1"]) == 1
    assert "architecture 'SM1' cannot be built for; allowed: SM120" in capsys.readouterr().err


def test_build_names_the_architectures_and_graphs_it_knows(bf16_artefact, capsys):
    asked = ["build", "--model", str(bf16_artefact), "--only", "flow_head", "--sm", "SM1"]
    assert main(asked) == 1
    assert "architecture 'SM1' cannot be built for; allowed: SM120" in capsys.readouterr().err
    assert main(["build", "--model", str(bf16_artefact), "--only", "flow"]) == 2
    assert "graph 'flow' is unknown; allowed: vit" in capsys.readouterr().err


def test_build_refuses_an_artefact_of_another_precision_with_the_commands_that_make_the_right_one(
    bf16_artefact, capsys, monkeypatch
):
    monkeypatch.setattr(plan_builder, "build", lambda *a: pytest.fail("built"))
    asked = ["build", "--model", str(bf16_artefact), "--precision", "und=int4,gen=w8a8", "--sm", "SM120"]
    assert main([*asked, "--max-height", "64", "--only", "flow_head"]) == 2
    told = capsys.readouterr().err
    assert "bf16 is of precision bfloat16, computing in bf16; asked for: und=int4,gen=w8a8." in told
    export_line, build_line = told.splitlines()[1:3]
    out = export_line.partition("--out ")[2]
    assert export_line.startswith("  bagel-rt export --ckpt CHECKPOINT --precision und=int4,gen=w8a8 --out ")
    assert build_line == (
        f"  bagel-rt build --sm SM120 --max-height 64 --only flow_head --model {out} --precision und=int4,gen=w8a8"
    )


def test_build_takes_any_spelling_of_the_artefacts_precision_and_refuses_unknown_ones(bf16_artefact, capsys):
    asked = ["build", "--model", str(bf16_artefact), "--only", "none", "--precision"]
    spelled = "bf16,und=float,vae=float"
    for name, more, words in (
        ("bf16", [], "graph 'none' is unknown"),  # refused only by what is checked next
        (spelled, [], "graph 'none' is unknown"),
        ("exact", [], "asked for: exact, computing in fp32"),
        ("balanced", ["--arithmetic", "bf16"], "asked for: balanced, computing in bf16"),
        ("int3", [], "precision 'int3' is unknown; allowed: fp32, bf16"),
    ):
        assert main([*asked, name, *more]) == 2
        assert words in capsys.readouterr().err
    assert main(["build", "--model", str(bf16_artefact), "--arithmetic", "bf16"]) == 2
    assert "--arithmetic says what a --precision computes in" in capsys.readouterr().err

"""Plans are compared with ONNX Runtime, and one that differs is refused: from end to end, with OpenVINO as the GPU."""

from __future__ import annotations

import json

import fake_tensorrt
import numpy as np
import pytest
from tensorrt_standin import FAKE, GPU

from bagel_engines.device import cuda
from bagel_engines.device.arrays import HostMemory
from bagel_engines.number_formats import narrowed, widened
from bagel_engines.tensorrt import plan_builder
from bagel_engines.tensorrt.plan_store import Target
from bagel_rt.artefact.contract import GEN_STEP, TASK_GRAPHS, UND_STEP, VIT
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.cli import main
from bagel_rt.tensorrt.profiles import DECODE_ROWS, example_sizes, largest
from bagel_rt.tensorrt.stores import plans_for

DECODE, PREFILL, DENOISE = range(3)
DRAWN = ["--height", "64", "--width", "64", "--num-timesteps", "3", "--seed", "1", "--cache-tokens", "2048"]


@pytest.fixture(autouse=True)
def card(monkeypatch):
    """A machine with TensorRT and a GPU, both of which are stood in for."""
    monkeypatch.setattr(cuda, "device_index", lambda device: 0)
    monkeypatch.setattr(cuda, "check_room", lambda index, needed: None)
    monkeypatch.setattr(cuda, "CudaMemory", lambda index: HostMemory())
    monkeypatch.setattr(Target, "at_hand", staticmethod(lambda index: GPU))
    monkeypatch.setattr(plan_builder, "flavour", lambda name=None: FAKE)
    monkeypatch.setattr(fake_tensorrt.Runtime, "faults", {})
    monkeypatch.setattr(fake_tensorrt.Runtime, "log", [])


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    return code, *capsys.readouterr()


def verified(capsys, artefact, *more) -> tuple[int, str, str]:
    return run(capsys, "verify", "--model", artefact, "--backend", "tensorrt", "--cache-tokens", 2048, *more)


def test_verify_compares_every_plan_in_every_profile_and_keeps_the_findings(capsys, small_artefact, tmp_path):
    code, out, _ = verified(capsys, small_artefact, "--json", tmp_path / "report.json")
    assert code == 0, out
    assert "DIFFERS" not in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert [plan["graph"] for plan in report["plans"]] == list(TASK_GRAPHS["full"])
    assert report["same"] is True
    ran = set(fake_tensorrt.Runtime.log)
    assert {(GEN_STEP, DECODE), (GEN_STEP, PREFILL), (GEN_STEP, DENOISE), (UND_STEP, DECODE), (UND_STEP, PREFILL)} < ran
    folder = plans_for(read_manifest(small_artefact)).folder
    records = {r["key"]["graph"]: r for r in (json.loads(p.read_text()) for p in folder.glob("*.json"))}
    assert set(records) == set(TASK_GRAPHS["full"])
    kept = records[GEN_STEP]["compared"]
    assert records[GEN_STEP]["executed"] is True
    assert {o["output"]: o["tolerance"] for o in kept["outputs"]} == dict.fromkeys(
        ("und_out", "gen_out", "new_kv"), 1e-3
    )
    assert all(0 < o["relative_l2"] < 1e-4 and o["max_abs"] > 0 for o in kept["outputs"])
    assert kept["reference"].startswith("onnxruntime")
    assert kept["engine"].startswith("tensorrt 11.4.0 (cuda:0")
    assert kept["date"].startswith("20")


def test_a_bf16_artefact_is_compared_with_openvino(capsys, bf16_artefact):
    code, out, _ = verified(capsys, bf16_artefact)
    assert code == 0, out
    assert "of 5e-02  same  from openvino" in out


FAULTS = {
    "one row of the latents is wrong": ("gen_out", DENOISE, lambda a: (a.__setitem__(0, 3 * a[0]), a)[1]),
    "keys and values are swapped in prefill": ("new_kv", PREFILL, lambda a: a[::-1].copy()),
    "decoding gives NaN": ("und_out", DECODE, lambda a: np.full_like(a, np.nan)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_miscompile_is_found_and_its_plan_is_refused_until_a_comparison_passes(
    capsys, small_artefact, tmp_path, monkeypatch, fault
):
    output, profile, change = FAULTS[fault]
    monkeypatch.setitem(fake_tensorrt.Runtime.faults, (GEN_STEP, output, profile), change)
    code, out, _ = verified(capsys, small_artefact, "--json", tmp_path / "report.json")
    assert code == 1
    differing = [line.split()[:2] for line in out.splitlines() if "DIFFERS" in line]
    assert differing == [[GEN_STEP, output]]
    assert json.loads((tmp_path / "report.json").read_text())["same"] is False

    drawing = ("generate", "--model", small_artefact, "--backend", "tensorrt", "--prompt", "a tree", *DRAWN)
    code, _, err = run(capsys, *drawing, "--out", tmp_path / "tree.png")
    assert code == 1
    assert f"output '{output}'" in err
    assert "it is not used. Remove the plan" in err
    assert not (tmp_path / "tree.png").exists()

    monkeypatch.setattr(fake_tensorrt.Runtime, "faults", {})  # another driver
    assert verified(capsys, small_artefact)[0] == 0
    assert run(capsys, *drawing, "--out", tmp_path / "tree.png")[0] == 0


def test_a_plan_that_was_never_compared_is_used(capsys, small_artefact, tmp_path):
    drawing = ("generate", "--model", small_artefact, "--backend", "tensorrt", "--prompt", "a tree", *DRAWN)
    assert run(capsys, *drawing, "--out", tmp_path / "tree.png")[0] == 0


def test_the_reference_that_is_missing_is_named(capsys, small_artefact, monkeypatch):
    from bagel_engines import select

    found = select.find_spec
    monkeypatch.setattr(select, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    code, _, err = verified(capsys, small_artefact)
    assert code == 2
    assert "plans are compared with onnxruntime: backend 'onnxruntime' is not installed; run: pip install" in err


def test_examples_try_every_profile_at_its_smallest_and_beyond(small_artefact):
    model = read_manifest(small_artefact).model
    limits = largest(model)
    tried = list(example_sizes(GEN_STEP, model, limits))
    assert [(s["und_rows"], s["gen_rows"], s["past"]) for s in tried] == [
        (1, 0, 0), (DECODE_ROWS, 0, 21), (DECODE_ROWS + 3, 0, 21), (2, 1, 0), (2, 9, 21)
    ]  # fmt: skip
    assert all(s["pool_slots"] == limits.pool_slots for s in tried)
    assert [s["patches"] for s in example_sizes(VIT, model, limits)] == [1, 12]


def test_numbers_are_narrowed_to_the_nearest_bfloat16():
    values = np.array([1.0, 1.00390625, 1.01171875, -3.1415927, 1e-40, 0.0], np.float32)  # two ties: to even
    assert widened(narrowed(values, "bfloat16"), "bfloat16").tolist()[:3] == [1.0, 1.0, 1.015625]
    import ml_dtypes

    random = np.random.default_rng(0).standard_normal(9999).astype(np.float32)
    assert np.array_equal(narrowed(random, "bfloat16"), random.astype(ml_dtypes.bfloat16).view(np.uint16))
    assert narrowed(random, "float16").dtype == np.float16
    assert narrowed(np.arange(3), "int64").dtype == np.int64

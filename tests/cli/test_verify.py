"""`bagel-rt verify` with a checkpoint or a record: what agrees passes stage by stage, what does not is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from checkpoints import change_tensors
from golden_cases import FOLDER, distance, read
from recording import recorded

import bagel_rt
from bagel_export.artefact.export import export
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.proof import verify
from bagel_export.proof.cases import built_in
from bagel_export.proof.findings import Limits, compared, identical
from bagel_export.proof.of_reference import opened
from bagel_export.proof.records import read_record
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.cli import main

STAGES = [  # of the built-in edit, in the order of a call
    "tokens 0",
    "transform 0, VAE",
    "VAE encode 0",
    "latent of image 0",
    "transform 0, ViT",
    "ViT and connector 0",
    "tokens 1",
    "context before the text, pass 0 (text)",
    "context before the text, pass 1 (latents)",
    "context before the text, pass 2 (patches)",
    "context before the text, pass 3 (text)",
    "greedy text, logits",
    "greedy text, next token",
    "context cond, pass 4 (text)",
    "context cfg_text, pass 2 (patches)",
    "context cfg_img, pass 1 (text)",
    "velocity cond, step 0",
    "velocity cfg_text, step 0",
    "velocity cfg_img, step 2",
    "VAE decode",
    "whole latent",
    "whole picture",
]


@pytest.fixture(scope="module")
def golden(golden_artefact):
    with bagel_rt.load(golden_artefact, backend="onnxruntime") as bagel:
        yield bagel


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(a) for a in ("verify", *arguments, "--backend", "onnxruntime")])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def in_order(wanted: list[str], found: list[str]) -> bool:
    rest = iter(found)
    return all(stage in rest for stage in wanted)


# The reference


@pytest.mark.parametrize("name", ["edit_think", "t2i_app_default", "t2i_channel", "und_basic"])
def test_the_reference_s_trace_of_a_recorded_case_is_the_record(golden_checkpoint, name):
    case, wanted, _ = read_record(FOLDER / f"{name}.npz")
    with opened(open_checkpoint(golden_checkpoint), layers=False) as reference:
        got = reference.trace(case)
    shared = (got.keys() & wanted.keys()) - {"image"}
    assert {"text0.logits", "vit0.connector"} <= shared or {"final_latent", "vae_decode.out"} <= shared
    for key in shared:
        if key.startswith("flow.v_"):  # a branch without effect is left out here, and run and ignored there
            run = ~np.isnan(got[key]).any(axis=(1, 2))
            assert distance(got[key][run], wanted[key][run]) < 1e-4, key
        else:
            assert distance(got[key], wanted[key]) < 1e-4, key


def test_streamed_layer_by_layer_the_reference_computes_the_same_and_holds_no_weights(small_checkpoint, small_artefact):
    checkpoint = open_checkpoint(small_checkpoint)
    case = built_in(read_manifest(small_artefact))[1]
    with opened(checkpoint, layers=False) as reference:
        wanted = reference.trace(case)
    with opened(checkpoint, layers=True) as reference:
        got = reference.trace(case)
        assert all(p.device == torch.device("meta") for p in reference.model.parameters())
    assert got.keys() == wanted.keys()
    for key in wanted:
        assert distance(np.nan_to_num(got[key]), np.nan_to_num(wanted[key])) < 1e-6, key


def test_weights_that_do_not_fit_in_memory_are_refused_with_the_way_out(
    capsys, small_artefact, small_checkpoint, monkeypatch
):
    room = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: room)
    code, _, err = run(capsys, "--model", small_artefact, "--ckpt", small_checkpoint)
    assert code == 2
    assert "GiB are free; use --layers" in err


# An artefact against its checkpoint


def test_every_stage_of_an_artefact_is_its_checkpoint_s(capsys, small_artefact, small_checkpoint, tmp_path):
    report = tmp_path / "report.json"
    given = ("--model", small_artefact, "--ckpt", small_checkpoint, "--layers", "--json", report)
    code, out, _ = run(capsys, *given)
    assert code == 0, out
    stored = json.loads(report.read_text())
    assert stored["same"] is True
    assert {f["case"] for f in stored["findings"]} == {"picture", "edit", "question"}
    assert in_order(STAGES, [f["stage"] for f in stored["findings"] if f["case"] == "edit"])
    assert max(f["error"] for f in stored["findings"]) < 1e-3
    assert f"{len(stored['findings'])} of {len(stored['findings'])} stages are the same" in out
    assert all(f["stage"] in out for f in stored["findings"])


def test_an_understanding_artefact_is_verified_by_a_question(capsys, quick_checkpoint, tmp_path):
    for _ in export(quick_checkpoint, tmp_path / "out", "understand", verify=False):
        pass
    code, out, _ = run(capsys, "--model", tmp_path / "out", "--ckpt", quick_checkpoint)
    assert code == 0, out
    assert "whole text" in out
    assert "VAE" not in out


# Bad twins: one tensor is changed, and the first stage that reads it is the first that differs

CHANGED = {
    "connector.fc2.bias": "ViT and connector 0",
    "language_model.model.layers.1.self_attn.k_proj.bias": "context before the text, pass 0 (text)",
    "language_model.model.layers.1.self_attn.k_proj_moe_gen.bias": "context before the text, pass 1 (latents)",
    "language_model.lm_head.weight": "greedy text, logits",
    "llm2vae.bias": "velocity cond, step 0",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "llm2vae.bias" else pytest.mark.slow) for n in CHANGED]
)
def test_a_changed_tensor_is_found_at_the_first_stage_that_reads_it(small_bagel, small_checkpoint, tmp_path, name):
    other = Path(shutil.copytree(small_checkpoint, tmp_path / "other", copy_function=os.link))
    change_tensors(other, lambda t: {**t, name: 0.5 - t[name]})
    with opened(open_checkpoint(other), layers=False) as reference:
        case = built_in(small_bagel.manifest)[1]
        trace = reference.trace(case)
    findings = list(verify.compare(small_bagel, verify.Run(case, trace, "float32")))
    differ = [f.stage for f in findings if not f.same]
    assert differ[0] == CHANGED[name]
    assert len(differ) < len(findings)


def test_a_difference_ends_in_exit_code_1_and_a_table_that_names_it(capsys, small_artefact, small_checkpoint, tmp_path):
    other = Path(shutil.copytree(small_checkpoint, tmp_path / "other", copy_function=os.link))
    change_tensors(other, lambda t: {**t, "llm2vae.bias": t["llm2vae.bias"] + 0.5})
    report = tmp_path / "report.json"
    code, out, _ = run(capsys, "--model", small_artefact, "--ckpt", other, "--json", report)
    assert code == 1
    line = next(line for line in out.splitlines() if "velocity cond, step 0" in line)
    assert "DIFFERS" in line
    assert json.loads(report.read_text())["same"] is False


def test_another_model_s_checkpoint_is_refused_by_the_size_that_differs(capsys, small_artefact, quick_checkpoint):
    code, _, err = run(capsys, "--model", small_artefact, "--ckpt", quick_checkpoint)
    assert code == 2
    assert "num_hidden_layers is 1, the artefact's is 2" in err


# Records


@pytest.mark.parametrize("name", ["edit_think", "t2i_basic", "t2i_taylor", "interleave_edit", "und_two_images"])
def test_the_recorded_runs_of_the_official_code_are_what_the_artefact_computes(golden, name):
    run = verify.recorded(golden.manifest, FOLDER / f"{name}.npz")
    findings = list(verify.compare(golden, run))
    assert [f for f in findings if not f.same] == []
    stages = {f.stage for f in findings}
    if run.case.output == "image":
        assert {"whole latent", "VAE decode", "velocity cond, step 0"} <= stages
    else:
        assert {"whole text", "greedy text, logits", "ViT and connector 1"} <= stages


def test_verify_compares_with_a_record_and_the_reference_with_it_too(
    capsys, golden_artefact, golden_checkpoint, tmp_path
):
    path = recorded(golden_checkpoint, tmp_path / "run.npz", "edit_think")
    code, out, _ = run(capsys, "--model", golden_artefact, "--record", path)
    assert code == 0, out
    assert "tokens 1" in out
    code, out, _ = run(capsys, "--model", golden_artefact, "--record", path, "--ckpt", golden_checkpoint)
    assert code == 0, out
    for stage in ("PyTorch, vit0.out", "PyTorch, vit0.connector", "PyTorch, vae_encode0.moments"):
        assert stage in out


def test_a_record_of_another_model_differs_and_says_where(capsys, golden_artefact, golden_checkpoint, tmp_path):
    other = Path(shutil.copytree(golden_checkpoint, tmp_path / "other", copy_function=os.link))
    change_tensors(other, lambda t: {**t, "connector.fc2.bias": t["connector.fc2.bias"] + 0.5})
    path = recorded(other, tmp_path / "run.npz", "und_basic")
    code, out, _ = run(capsys, "--model", golden_artefact, "--record", path)
    assert code == 1
    assert "DIFFERS" in next(line for line in out.splitlines() if "ViT and connector 0" in line)


def test_a_record_is_compared_where_torch_cannot_be_imported(golden_artefact):
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('torch', 'transformers', 'onnx', 'onnxscript', 'ml_dtypes'))\n"
        "from bagel_rt.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    given = ["verify", "--model", golden_artefact, "--record", FOLDER / "und_basic.npz", "--backend", "onnxruntime"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, given)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "whole text" in done.stdout


def changed_record(out: Path, change) -> Path:
    case = read("und_basic")
    arrays = {**case.arrays, "meta": np.array(json.dumps(case.meta))}
    change(arrays)
    np.savez(out, **arrays)
    return out


def change_meta(arrays: dict, **values) -> None:
    arrays["meta"] = np.array(json.dumps(json.loads(str(arrays["meta"])) | values))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda a: a.pop("meta"), "key 'meta' is missing"),
        (lambda a: a.pop("text0.logits"), "key 'text0.logits' is missing; record it again"),
        (lambda a: a.pop("vit0.pixels"), "'vit0.pixels'"),
        (lambda a: a.pop("input0.rgb"), "'input0.rgb'"),
        (lambda a: a.pop("ctx00.hidden_in"), "'ctx00.hidden_in'"),
        (lambda a: change_meta(a, dtype="int3"), "'int3'"),
        (lambda a: change_meta(a, case={"mode": "train"}), "mode 'train'"),
    ],
)
def test_a_record_that_is_not_whole_is_refused_by_its_key(capsys, small_artefact, tmp_path, change, words):
    path = changed_record(tmp_path / "run.npz", change)
    code, _, err = run(capsys, "--model", small_artefact, "--record", path)
    assert code == 2
    assert words in err
    assert "run.npz" in err


def test_what_is_no_record_is_refused(capsys, small_artefact, tmp_path):
    (tmp_path / "a.npz").write_bytes(b"not a zip")
    (tmp_path / "b.npz").write_bytes((FOLDER / "und_basic.npz").read_bytes()[:5000])
    for name, words in (("a.npz", "not a record"), ("b.npz", "cut off"), ("none.npz", "no such record")):
        code, _, err = run(capsys, "--model", small_artefact, "--record", tmp_path / name)
        assert code == 2
        assert words in err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--layers"], "name it with --ckpt"),
        (["--lora", "x"], "name it with --ckpt"),
        (["--json", "{tmp}/no/report.json"], "no such folder"),
    ],
)
def test_options_that_make_no_sense_are_refused(capsys, small_artefact, tmp_path, arguments, words):
    code, _, err = run(capsys, "--model", small_artefact, *[a.format(tmp=tmp_path) for a in arguments])
    assert code == 2
    assert words in err


# Findings


def test_limits_follow_the_coarser_side():
    assert Limits.between("float32", "float32") == Limits(1e-3, 1e-2, 1.0)
    assert Limits.between("bfloat16", "float32").stage == 5e-2
    assert Limits.between("float32", "int8").stage == 1e-1
    assert Limits.between("float32", "int4").tokens < 1


def test_numbers_that_are_not_finite_or_of_another_shape_are_never_the_same():
    ones = np.ones((2, 3), np.float32)
    assert compared("a", "b", ones, ones, 0.0).same
    assert not compared("a", "b", ones * np.nan, ones, 1e9).same
    assert not compared("a", "b", ones[:1], ones, 1e9).same
    assert identical("a", "b", [1, 2, 3], [1, 2, 3]).same
    assert identical("a", "b", [1, 2], [1, 2, 3, 4]).error == 0.5

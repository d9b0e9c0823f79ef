"""Recording the official code, on a stand-in for its interface: what comes out is what the golden runs hold."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from golden_cases import distance, read
from recording import STANDIN, recorded

from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.proof.cases import built_in
from bagel_export.proof.record import Asked, main, record
from bagel_export.proof.records import read_record
from bagel_rt.errors import InputError

CLOSE = 2e-5
CASES = ["edit_think", "t2i_basic", "t2i_interval_mid", "interleave_edit", "und_basic", "und_two_images", "text_eos7"]


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_run_holds_what_the_golden_run_of_the_official_code_holds(golden_checkpoint, tmp_path, name):
    with np.load(recorded(golden_checkpoint, tmp_path / "run.npz", name)) as stored:
        got = {key: stored[key] for key in stored.files}
    wanted = read(name).arrays
    not_kept = (".cu_seqlens", ".kv_after_len")
    missing = {key for key in wanted if not key.endswith(not_kept) and not key.startswith("kv_after.")} - got.keys()
    assert missing == set()
    for key in wanted.keys() & got.keys():
        if key == "image":
            assert np.abs(got[key].astype(int) - wanted[key]).max() <= 1
        elif wanted[key].dtype.kind != "f":
            np.testing.assert_array_equal(got[key], wanted[key], err_msg=key)
        else:
            np.testing.assert_array_equal(np.isnan(got[key]), np.isnan(wanted[key]), err_msg=key)
            assert distance(np.nan_to_num(got[key]), np.nan_to_num(wanted[key])) < CLOSE, key


def test_a_record_says_what_was_asked_and_of_what(golden_checkpoint, tmp_path):
    path = recorded(golden_checkpoint, tmp_path / "run.npz", "und_basic")
    case, trace, precision = read_record(path)
    golden = read("und_basic")
    assert (case.output, case.options, precision) == (
        "text",
        {"max_tokens": 40, "do_sample": False, "seed": 42},
        "float32",
    )
    assert case.items[1] == golden.items[1]
    np.testing.assert_array_equal(case.items[0], golden.items[0])
    np.testing.assert_allclose(trace["vit0.rows"], golden.arrays["ctx00.hidden_in"][1:-1], atol=1e-4)
    with np.load(path) as stored:
        meta = json.loads(str(stored["meta"]))
    assert meta["texts"] == golden.meta["texts"]
    assert meta["checkpoint"] == "checkpoint"
    assert meta["device"] == "cpu"


def test_recording_leaves_the_official_objects_as_they_were(golden_checkpoint, tmp_path):
    first, second = (recorded(golden_checkpoint, tmp_path / f"{i}.npz", "und_basic") for i in (1, 2))
    with np.load(first) as a, np.load(second) as b:
        assert a.files == b.files
        assert all(np.array_equal(a[key], b[key]) for key in a.files)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.npz", "2.npz"]


def test_the_command_writes_a_record_that_can_be_read(golden_checkpoint, tmp_path, capsys):
    given = [
        "--official",
        STANDIN,
        "--ckpt",
        golden_checkpoint,
        "--device",
        "cpu",
        "--dtype",
        "fp32",
        "--num-timesteps",
        3,
    ]
    out = tmp_path / "edit.npz"
    assert main([str(g) for g in (*given, "--out", out, "--think", "--max-tokens", 5)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    case, trace, _ = read_record(out)
    assert case.think
    assert case.options["max_think_tokens"] == 5
    assert len(trace["flow.t"]) == 2
    assert main([str(g) for g in (*given, "--out", tmp_path / "t2i.npz", "--mode", "t2i", "--size", 64)]) == 0
    assert read_record(tmp_path / "t2i.npz")[0].image_options.height == 64


# Bad twins


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--out", "run.txt"], "run.txt: a record is a .npz file"),
        (["--out", "no/run.npz"], "no such folder"),
        (["--ckpt", "nowhere"], "nowhere: no such checkpoint folder"),
        (["--official", "empty"], "not a checkout of the official code: inferencer.py is missing"),
        (["--device", "cuda:0"], "no CUDA device"),
        (["--image", "none.png"], "none.png: no such image file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(quick_checkpoint, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "empty").mkdir()
    given = [
        "--official",
        STANDIN,
        "--ckpt",
        quick_checkpoint,
        "--out",
        "run.npz",
        "--device",
        "cpu",
        "--dtype",
        "fp32",
    ]
    assert main([*map(str, given), *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_a_package_the_checkout_misses_is_named(quick_checkpoint, tmp_path, monkeypatch):
    checkout = Path(shutil.copytree(STANDIN, tmp_path / "checkout"))
    (checkout / "inferencer.py").write_text("import flash_attn_that_is_not_here\n")
    monkeypatch.delitem(__import__("sys").modules, "inferencer", raising=False)
    with pytest.raises(InputError, match=r"flash_attn_that_is_not_here.*requirements\.txt"):
        record(checkout, open_checkpoint(quick_checkpoint), Asked("t2i", ("a",)), tmp_path / "a.npz", "cpu", "fp32")


def test_a_checkpoint_the_official_code_cannot_be_built_from_is_refused(quick_checkpoint, tmp_path):
    folder = Path(shutil.copytree(quick_checkpoint, tmp_path / "checkpoint", copy_function=os.link))
    both = {f"{n}_config": json.loads((folder / f"{n}_config.json").read_text()) for n in ("llm", "vit")}
    (folder / "config.json").write_text(json.dumps(both))
    for name in ("llm_config.json", "vit_config.json"):
        (folder / name).unlink()
    with pytest.raises(InputError, match=r"llm_config\.json: file not found; the official code"):
        record(STANDIN, open_checkpoint(folder), Asked("t2i", ("a",)), tmp_path / "a.npz", "cpu", "fp32")


def test_the_builtin_cases_cover_every_kind_of_call():
    from types import SimpleNamespace

    model = SimpleNamespace(latent_stride=16, max_latent_size=64)
    cases = {case.name: case for case in built_in(SimpleNamespace(task="full", model=model))}  # type: ignore[arg-type]
    assert {name: case.output for name, case in cases.items()} == {
        "picture": "image",
        "edit": "image",
        "question": "text",
    }
    assert cases["edit"].think
    assert [case.name for case in built_in(SimpleNamespace(task="understand", model=model))] == ["question"]  # type: ignore[arg-type]

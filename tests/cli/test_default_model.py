"""Which model commands use: named, or chosen once and on purpose, never by the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from calls import run

import bagel_rt
from bagel_rt.artefact import folders
from bagel_rt.artefact.folders import BUNDLED, find_model, home, use_model
from bagel_rt.artefact.manifest import read_manifest


@pytest.fixture
def artefact(tmp_path) -> Path:
    return Path(shutil.copytree(BUNDLED, tmp_path / "art"))


def test_an_export_changes_nothing_but_its_folder(capsys, quick_checkpoint, tmp_path):
    out = tmp_path / "my art"
    given = ["--ckpt", quick_checkpoint, "--out", out, "--task", "understand", "--no-verify"]
    code, text, err = run(capsys, "export", *given)
    assert (code, text) == (0, f"{out}\n")
    assert err.splitlines()[-1] == f"bagel-rt: to make commands without --model use it: bagel-rt use '{out}'"
    assert find_model(None).folder == BUNDLED


def test_use_chooses_the_model_and_info_says_which_and_why(capsys, artefact, monkeypatch):
    assert run(capsys, "info")[1].startswith(f"commands without --model use {BUNDLED}: the bundled model; ")
    monkeypatch.chdir(artefact.parent)
    code, out, _ = run(capsys, "use", "art")
    assert (code, out) == (0, "commands without --model now use art\n")
    monkeypatch.chdir("/")
    assert find_model(None).folder == artefact
    assert run(capsys, "info")[1].startswith(f"commands without --model use {artefact}: chosen with 'bagel-rt use'; ")
    used = json.loads(run(capsys, "info", "--json")[1])["used"]
    assert used == {"folder": str(artefact), "why": "chosen with 'bagel-rt use'"}
    assert not run(capsys, "info", artefact)[1].startswith("commands")
    monkeypatch.setenv("BAGEL_RT_MODEL", str(BUNDLED))
    assert f"use {BUNDLED}: BAGEL_RT_MODEL" in run(capsys, "info")[1]


def test_use_takes_no_folder_that_is_no_artefact(capsys, artefact, tmp_path):
    use_model(artefact)
    code, _, err = run(capsys, "use", tmp_path)
    assert (code, "not a bagel-rt artefact" in err) == (2, True)
    assert find_model(None).folder == artefact


def test_a_chosen_model_that_is_gone_is_said_and_no_other_takes_its_place(capsys, artefact):
    use_model(artefact)
    shutil.rmtree(artefact)
    code, _, err = run(capsys, "generate", "--prompt", "a")
    assert (code, f"the default model, {artefact}, is gone" in err) == (2, True)
    assert run(capsys, "use", "bagel-nano")[0] == 0
    assert find_model(None).folder == BUNDLED


def test_the_record_of_an_earlier_versions_last_export_still_holds(artefact, monkeypatch, tmp_path):
    home().mkdir()
    (home() / "last_export").write_text(f"{artefact}\n", encoding="utf-8")
    assert find_model(None) == folders.Found(artefact, "the last export of an earlier version")
    use_model(BUNDLED)
    assert find_model(None).folder == BUNDLED
    (home() / "default_model").unlink()
    shutil.rmtree(artefact)
    assert find_model(None).folder == BUNDLED
    monkeypatch.setattr(folders, "BUNDLED", tmp_path / "left out of this package")
    with pytest.raises(bagel_rt.InputError, match=r"is gone\): export one with 'bagel-rt export --ckpt"):
        find_model(None)


def test_what_is_named_comes_first(artefact, monkeypatch, tmp_path):
    use_model(artefact)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("BAGEL_RT_MODEL", "~/elsewhere")
    assert find_model(None) == folders.Found(tmp_path / "elsewhere", "BAGEL_RT_MODEL")
    assert find_model("~/named") == folders.Found(tmp_path / "named", "--model")


def test_the_bundled_model_is_loaded_by_its_name_and_a_folder_of_that_name_comes_first(
    capsys, artefact, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    with bagel_rt.load("bagel-nano") as bagel:
        assert bagel.manifest.folder == BUNDLED
    assert find_model("bagel-nano").folder == BUNDLED
    Path("bagel-nano").mkdir()  # of something else
    assert find_model("bagel-nano").folder == BUNDLED
    shutil.rmtree("bagel-nano")
    artefact.rename("bagel-nano")
    assert find_model("bagel-nano").folder == Path("bagel-nano")
    assert read_manifest(find_model(Path("bagel-nano")).folder).folder == Path("bagel-nano").resolve()
    code, _, err = run(capsys, "ask", "--model", "bagel-nano", "--prompt", "a", "--max-tokens", "3")
    assert (code, "in bagel-nano (--model)" in err) == (0, True)

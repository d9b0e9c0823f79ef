"""Where a checkpoint may lie: sharded files, a named file, a hub snapshot, the hub; each with its bad twins."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.sources import find_source
from bagel_export.training.unified import BagelForUnifiedMultimodal
from bagel_rt.cli import main
from bagel_rt.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def copy(quick_checkpoint, tmp_path) -> Path:
    """The smallest checkpoint under hard links; files are replaced, never written through."""
    return Path(shutil.copytree(quick_checkpoint, tmp_path / "checkpoint", copy_function=os.link))


def refused(ckpt, *words) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(ckpt)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def same_model(found, wanted) -> None:
    assert found.config == wanted.config
    assert list(found.tensors) == list(wanted.tensors)
    for name, tensor in wanted.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].array(), tensor.array(), err_msg=name)


def shard(folder: Path, stem: str = "model", count: int = 3, index: bool = True) -> list[Path]:
    """Replace ema.safetensors by shards, as save_pretrained leaves them; returns their paths."""
    tensors = load_file(folder / "ema.safetensors")
    (folder / "ema.safetensors").unlink()
    listed, paths = {}, []
    for i in range(count):
        part = {key: tensors[key] for key in sorted(tensors)[i::count]}
        paths.append(folder / f"{stem}-{i + 1:05}-of-{count:05}.safetensors")
        save_file(part, paths[-1])
        listed |= dict.fromkeys(part, paths[-1].name)
    if index:
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return paths


def change_index(folder: Path, change) -> None:
    path = folder / INDEX
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


# Files


def test_model_safetensors_is_read_where_ema_safetensors_is_not(copy, quick_checkpoint):
    (copy / "ema.safetensors").rename(copy / "model.safetensors")
    same_model(open_checkpoint(copy), open_checkpoint(quick_checkpoint))


def test_ema_safetensors_comes_before_model_safetensors_and_either_can_be_named(copy, quick_checkpoint):
    tensors = load_file(copy / "ema.safetensors")
    save_file({key: value + 1 for key, value in tensors.items()}, copy / "model.safetensors")
    same_model(open_checkpoint(copy), open_checkpoint(quick_checkpoint))
    norm = "language_model.model.norm.weight"
    named = open_checkpoint(copy / "model.safetensors")
    np.testing.assert_array_equal(named.tensors[norm].array(), tensors[norm].numpy() + 1)
    assert named.name == "checkpoint"


@pytest.mark.parametrize("stem", ["model", "ema", "consolidated"])
def test_shards_with_an_index_are_one_checkpoint(copy, quick_checkpoint, stem):
    shard(copy, stem)
    same_model(open_checkpoint(copy), open_checkpoint(quick_checkpoint))


def test_shards_that_lost_their_index_are_found_by_their_names(copy, quick_checkpoint):
    shard(copy, index=False)
    same_model(open_checkpoint(copy), open_checkpoint(quick_checkpoint))


def test_training_starts_from_shards_too(copy):
    shard(copy)
    wanted = open_checkpoint(copy).tensors
    model = BagelForUnifiedMultimodal.from_pretrained(copy, strict=True).model.state_dict()
    assert all(np.array_equal(model[name].numpy(), wanted[name].array()) for name in model)


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_shard_is_named_and_counted(copy, index):
    shard(copy, index=index)[1].unlink()
    refused(copy, "model-00002-of-00003.safetensors: file not found", "1 of 3 shards")


def test_a_shard_that_is_cut_off_is_named(copy):
    path = shard(copy)[2]
    path.write_bytes(path.read_bytes()[:-100])
    refused(copy, path.name, "cut off")


def test_a_tensor_in_two_shards_is_refused(copy):
    first, second, _ = shard(copy)
    key, value = next(iter(load_file(first).items()))
    save_file(load_file(second) | {key: value}, second)
    refused(copy, second.name, f"'{key}'", first.name)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda raw: raw.pop("weight_map"), "'weight_map' is missing"),
        (lambda raw: raw["weight_map"].update(a="../model.safetensors"), "'../model.safetensors'"),
        (lambda raw: raw["weight_map"].update(a="/etc/passwd"), "the same folder"),
        (lambda raw: raw["weight_map"].update(a=7), "'weight_map' puts tensor 'a' into 7"),
        (lambda raw: raw["weight_map"].update(a="model-00001-of-00003.safetensors"), "tensor 'a' is listed"),
        (lambda raw: raw["weight_map"].popitem(), "is not listed in"),
    ],
)
def test_an_index_that_does_not_say_what_the_files_hold_is_refused(copy, change, words):
    shard(copy)
    change_index(copy, change)
    refused(copy, words, INDEX)


def test_a_folder_without_weights_says_what_is_there_instead(copy):
    (copy / "ema.safetensors").rename(copy / "finetuned.safetensors")
    assert open_checkpoint(copy).tensors
    assert open_checkpoint(copy / "finetuned.safetensors").tensors
    os.link(copy / "finetuned.safetensors", copy / "other.safetensors")
    refused(copy, "--weights-file: finetuned.safetensors, other.safetensors")
    (copy / "other.safetensors").unlink()
    (copy / "finetuned.safetensors").rename(copy / "pytorch_model.bin")
    refused(copy, "pytorch_model.bin is a pickle")
    refused(copy / "pytorch_model.bin", "not a checkpoint")
    (copy / "pytorch_model.bin").unlink()
    refused(copy, "ema.safetensors: file not found")


# Hub snapshots and ids


@pytest.fixture
def cache(quick_checkpoint, tmp_path, monkeypatch) -> Path:
    """A hub cache with one model, as huggingface_hub lays it out: blobs, and a snapshot of links; no network."""
    folder = tmp_path / "hub" / "models--someone--Bagel-small"
    snapshot = folder / "snapshots" / COMMIT
    (folder / "blobs").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot.mkdir(parents=True)
    for i, path in enumerate(sorted(quick_checkpoint.iterdir())):
        os.link(path, folder / "blobs" / f"{i:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{i:040x}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def test_a_snapshot_and_its_cache_folder_are_the_model_and_carry_its_name(cache, quick_checkpoint):
    for ckpt in (cache, cache / "snapshots" / COMMIT):
        found = open_checkpoint(ckpt)
        assert found.name == "Bagel-small"
        same_model(found, open_checkpoint(quick_checkpoint))


def test_a_hub_id_is_read_from_the_cache_without_a_network(cache, quick_checkpoint, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for ckpt in ("someone/Bagel-small", Path("someone/Bagel-small"), f"someone/Bagel-small@{COMMIT}"):
        found = open_checkpoint(ckpt)
        assert found.name == "Bagel-small"
        same_model(found, open_checkpoint(quick_checkpoint))


def test_a_model_that_is_not_in_the_cache_is_a_clear_error_offline(cache, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    refused("someone/else", "someone/else: no such", "does not hold it", "HF_HUB_OFFLINE is set", "hf download")


def test_a_snapshot_with_a_file_missing_is_called_incomplete(cache, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    blob = (cache / "snapshots" / COMMIT / "ema.safetensors").resolve()
    blob.unlink()
    refused(cache, "ema.safetensors: links to", "not complete")
    refused("someone/Bagel-small", "holds only a part", "hf download someone/Bagel-small")


def test_several_snapshots_without_a_main_one_must_be_named(cache):
    (cache / "refs" / "main").unlink()
    assert find_source(cache).folder.name == COMMIT
    (cache / "snapshots" / "other").mkdir()
    refused(cache, "2 snapshots", "name one")


def test_what_the_cache_lacks_is_fetched_once_and_only_what_is_needed(cache, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []

    def download(repo_id, revision, allow_patterns, local_files_only=False):
        asked.append((repo_id, revision, local_files_only))
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        assert "*.bin" not in allow_patterns
        return str(cache / "snapshots" / COMMIT)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert open_checkpoint("someone/new@v2").name == "new"
    assert asked == [("someone/new", "v2", True), ("someone/new", "v2", False)]


def test_a_misspelt_path_is_never_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda **_: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for path in ("models/bagle", "./a/b", "/a/b", "~/a", "a/b/c", "nowhere"):
        refused(path, "no such checkpoint folder")


def test_without_huggingface_hub_an_id_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert main(["export", "--ckpt", "someone/model", "--out", str(tmp_path / "out")]) == 2
    assert "pip install huggingface_hub" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_exported_hub_model_is_kept_under_its_own_name(cache, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["export", "--ckpt", "someone/Bagel-small", "--task", "understand", "--no-verify"]
    assert main(asked) == 0
    assert Path(capsys.readouterr().out.strip()).name == "Bagel-small"

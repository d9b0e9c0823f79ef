"""`--weights link`: an artefact that reads the checkpoint's own files through hard links."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import QUERY, change_tensors, of, pair, write_adapter
from safetensors.torch import load_file

import bagel_rt
from bagel_export.artefact.export import export
from bagel_export.checkpoint.open import PATCH_EMBEDDING, open_checkpoint
from bagel_export.checkpoint.synthetic import SMALL_VIT, Shape, write_checkpoint
from bagel_export.quantization.precision import precision_named
from bagel_export.quantization.recipe import recipe_for
from bagel_export.weights.links import linkable
from bagel_rt.adapters.read import Lora
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.cli import main
from bagel_rt.errors import ExportError

FEW = {"seed": 3, "height": 32, "width": 32, "num_timesteps": 3}


@pytest.fixture(scope="module")
def linked(quick_checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("linked") / "artefact"
    for _ in export(quick_checkpoint, out, weights="link"):
        pass
    return out


@pytest.fixture(scope="module")
def bf16_checkpoint(tmp_path_factory) -> Path:
    shape = replace(
        Shape(dtype=torch.bfloat16).with_llm(num_hidden_layers=1), vit=replace(SMALL_VIT, num_hidden_layers=2)
    )
    return write_checkpoint(tmp_path_factory.mktemp("bf16") / "checkpoint", shape)


def test_a_linked_artefact_holds_the_checkpoints_files_and_no_copy_of_them(linked, quick_checkpoint):
    for name in ("ema.safetensors", "ae.safetensors"):
        assert (linked / name).samefile(quick_checkpoint / name)
        assert not (linked / name).is_symlink()
    assert load_file(linked / "weights.safetensors") == {}
    manifest = read_manifest(linked)
    assert manifest.raw["linked_files"] == ["ae.safetensors", "ema.safetensors"]
    assert {graph["parity"]["status"] for graph in manifest.graphs.values()} == {"verified"}
    assert manifest.embeddings.file == "ema.safetensors"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_it_draws_and_answers_as_a_copied_one_does(linked, quick_checkpoint, tmp_path, backend):
    for _ in export(quick_checkpoint, tmp_path / "copied", verify=False):
        pass
    latents, answers = [], []
    for folder in (linked, tmp_path / "copied"):
        with bagel_rt.load(folder, backend=backend) as bagel:
            latents.append(bagel.generate("a bagel", **FEW).latent)
            answers.append(bagel.ask("what is it?", max_tokens=6).token_ids)
    np.testing.assert_array_equal(*latents)
    assert answers[0] == answers[1]


def test_what_must_be_changed_is_copied_and_the_rest_linked(quick_checkpoint, tmp_path):
    checkpoint = Path(shutil.copytree(quick_checkpoint, tmp_path / "checkpoint", copy_function=os.link))
    patch = SMALL_VIT.patch_size
    shape = (-1, patch, patch, 3)
    change_tensors(
        checkpoint,
        lambda t: {**t, PATCH_EMBEDDING: t[PATCH_EMBEDDING].reshape(shape).permute(0, 3, 1, 2).contiguous()},
    )
    lora = write_adapter(tmp_path / "style", of(QUERY, *pair(64, 64, 1)))
    for _ in export(checkpoint, tmp_path / "out", "understand", lora=lora, weights="link"):
        pass
    assert set(load_file(tmp_path / "out" / "weights.safetensors")) == {PATCH_EMBEDDING, f"{QUERY}.weight"}
    graphs = read_manifest(tmp_path / "out").graphs
    assert {graph["parity"]["status"] for graph in graphs.values()} == {"verified"}


def test_a_hub_snapshots_links_are_followed_to_the_files(quick_checkpoint, tmp_path):
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in quick_checkpoint.iterdir():
        (snapshot / path.name).symlink_to(path)
    for _ in export(snapshot, tmp_path / "out", "understand", verify=False, weights="link"):
        pass
    found = tmp_path / "out" / "ema.safetensors"
    assert found.samefile(quick_checkpoint / "ema.safetensors")
    assert not found.is_symlink()


def test_a_sixteen_bit_checkpoint_links_where_the_artefact_is_sixteen_bit_too(bf16_checkpoint, tmp_path):
    tensors = open_checkpoint(bf16_checkpoint, "understand").tensors
    assert linkable(tensors, recipe_for(tensors, precision_named("bf16"))).keys() == tensors.keys()
    for _ in export(bf16_checkpoint, tmp_path / "out", "understand", precision="bf16", weights="link"):
        pass
    manifest = read_manifest(tmp_path / "out")
    assert (tmp_path / "out" / "ema.safetensors").samefile(bf16_checkpoint / "ema.safetensors")
    assert (manifest.embeddings.file, manifest.embeddings.dtype) == ("ema.safetensors", "bfloat16")
    with pytest.raises(ExportError, match="stores BF16, the artefact F16"):
        list(export(bf16_checkpoint, tmp_path / "half", "understand", precision="fp16", weights="link"))


# Bad twins


def test_where_types_differ_the_error_says_which(bf16_checkpoint, tmp_path):
    wide = write_checkpoint(tmp_path / "wide", Shape().with_llm(intermediate_size=1024))
    for ckpt, precision, words in (
        (bf16_checkpoint, "fp32", "stores BF16, the artefact F32"),
        (wide, "int8", "rounded"),
    ):
        with pytest.raises(ExportError, match=words) as caught:
            list(export(ckpt, tmp_path / "out", "understand", precision=precision, weights="link"))
        assert "--weights copy" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["wide"]


def test_an_adapter_for_every_matrix_leaves_too_little_to_link(quick_checkpoint, tmp_path):
    tensors = open_checkpoint(quick_checkpoint, "understand").tensors
    matrices = {n: t.shape for n, t in tensors.items() if len(t.shape) == 2 and n.endswith(".weight")}
    pairs = {}
    for name, (outputs, inputs) in matrices.items():
        pairs |= of(name.removesuffix(".weight"), *pair(outputs, inputs, 1))
    lora: Lora = write_adapter(tmp_path / "style", pairs)
    with pytest.raises(ExportError, match="an adapter is merged"):
        list(export(quick_checkpoint, tmp_path / "out", "understand", lora=lora, weights="link"))


@pytest.mark.parametrize("number, words", [(errno.EXDEV, "on another disk"), (errno.EPERM, "not yours to link")])
def test_a_file_that_cannot_be_linked_is_named_and_nothing_is_left(
    quick_checkpoint, tmp_path, monkeypatch, capsys, number, words
):
    def fail(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    given = ["export", "--ckpt", quick_checkpoint, "--out", tmp_path / "out", "--weights", "link"]
    assert main([str(g) for g in given]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "ema.safetensors" in err
    assert "--weights copy" in err
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_changed_behind_the_artefact_is_found_by_verify(quick_checkpoint, tmp_path, capsys):
    checkpoint = Path(shutil.copytree(quick_checkpoint, tmp_path / "checkpoint"))
    for _ in export(checkpoint, tmp_path / "out", "understand", verify=False, weights="link"):
        pass
    with (checkpoint / "ema.safetensors").open("r+b") as stream:
        stream.seek(-8, os.SEEK_END)
        stream.write(b"\x00" * 8)
    assert main(["verify", "--model", str(tmp_path / "out"), "--backend", "onnxruntime"]) == 2
    assert "ema.safetensors: its sha256" in capsys.readouterr().err


def test_an_unknown_way_to_keep_weights_is_refused(tmp_path):
    with pytest.raises(ExportError, match="weights 'symlink' is unknown; allowed: copy, link"):
        list(export(tmp_path, tmp_path / "out", weights="symlink"))

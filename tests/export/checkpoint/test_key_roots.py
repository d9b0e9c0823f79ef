"""Checkpoints saved from a wrapped model, or from what held it, are the checkpoint itself."""

from __future__ import annotations

import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

from bagel_export.checkpoint.open import open_checkpoint
from bagel_rt.errors import CheckpointError

WRAPPED = {
    "torch.compile": "_orig_mod.{}",
    "DDP": "module.{}",
    "DDP around torch.compile": "module._orig_mod.{}",
    "torch.compile around DDP": "_orig_mod.module.{}",
    "NeMo": "model.{}",
    "NeMo around DDP around torch.compile": "model.module._orig_mod.{}",
    "FSDP": "_fsdp_wrapped_module.{}",
    "a name of one's own": "ema_model.online.{}",
}


@pytest.fixture
def renamed(quick_checkpoint, tmp_path):
    """The random checkpoint with other names for its tensors."""

    def change(rename, file="ema.safetensors"):
        folder = tmp_path / "renamed"
        shutil.copytree(quick_checkpoint, folder, copy_function=os.link)
        tensors = {rename(name): tensor for name, tensor in load_file(folder / file).items()}
        (folder / file).unlink()
        save_file(tensors, folder / file)
        return folder

    return change


def same(a, b) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(
        (a.tensors[name].array() == b.tensors[name].array()).all() for name in a.tensors
    )


@pytest.mark.parametrize("form", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("file", ["ema.safetensors", "ae.safetensors"])
def test_a_prefix_before_every_name_is_taken_off(quick_checkpoint, renamed, form, file):
    assert same(open_checkpoint(renamed(form.format, file)), open_checkpoint(quick_checkpoint))


def test_wrappers_inside_a_model_are_taken_off(quick_checkpoint, renamed):
    def wrapped(name: str) -> str:
        name = name.replace("language_model.", "language_model._orig_mod._fsdp_wrapped_module.", 1)
        return name.replace("layers.1.", "layers.1._checkpoint_wrapped_module.")

    assert same(open_checkpoint(renamed(wrapped)), open_checkpoint(quick_checkpoint))


def test_a_holder_before_some_names_alone_is_taken_off(quick_checkpoint, renamed):
    rename = lambda name: name if name.startswith("vit") else f"model.{name}"  # noqa: E731
    assert same(open_checkpoint(renamed(rename)), open_checkpoint(quick_checkpoint))


def test_prefixes_that_are_not_one_are_named(renamed):
    folder = renamed(lambda name: f"{'net' if name.startswith('vit') else 'ema'}.{name}")
    with pytest.raises(CheckpointError, match=r"begin with 'ema\.' and 'net\.'"):
        open_checkpoint(folder)


def test_a_tensor_that_is_there_with_and_without_a_prefix_is_refused(quick_checkpoint, tmp_path):
    folder = tmp_path / "twice"
    shutil.copytree(quick_checkpoint, folder, copy_function=os.link)
    tensors = load_file(folder / "ema.safetensors")
    (folder / "ema.safetensors").unlink()
    name = "vit_pos_embed.pos_embed"
    save_file(tensors | {f"module.{name}": tensors[name].clone()}, folder / "ema.safetensors")
    with pytest.raises(CheckpointError, match=f"'{name}' is there twice, as .*module"):
        open_checkpoint(folder)

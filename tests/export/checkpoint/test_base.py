"""A checkpoint that holds a part of the model, over the one it was changed from; one weight file of several."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from bagel_export.artefact import export as exporter
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.sources import Asked
from bagel_rt.cli import main
from bagel_rt.errors import CheckpointError

GENERATION = ("time_embedder.", "vae2llm.", "llm2vae.", "latent_pos_embed.")


def refused(ckpt, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(ckpt)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def changed(checkpoint: Path, folder: Path, keep, name: str = "model.safetensors", configs: bool = False) -> Path:
    """A folder with some of a checkpoint's tensors, each one larger by 1."""
    folder.mkdir(exist_ok=True)
    tensors = {k: t + 1 for k, t in load_file(checkpoint / "ema.safetensors").items() if keep(k)}
    assert tensors
    save_file(tensors, folder / name)
    for config in ("llm_config.json", "vit_config.json") if configs else ():
        shutil.copy(checkpoint / config, folder / config)
    return folder


def is_generation(key: str) -> bool:
    return "_moe_gen" in key or key.startswith(GENERATION)


KEEPS = {
    "generation alone": is_generation,
    "understanding alone": lambda k: not is_generation(k),
    "without the ViT": lambda k: not k.startswith("vit_"),
    "one tensor": lambda k: k == "llm2vae.bias",
    "all": lambda k: True,
}


@pytest.mark.parametrize("configs", [False, True])
@pytest.mark.parametrize("part", KEEPS)
def test_changed_tensors_are_read_over_the_base(part, configs, quick_checkpoint, tmp_path):
    folder = changed(quick_checkpoint, tmp_path / "tune", KEEPS[part], configs=configs)
    base = open_checkpoint(quick_checkpoint)
    found = open_checkpoint(Asked(folder, base=quick_checkpoint))
    assert (found.name, found.folder, found.config) == ("tune", folder, base.config)
    assert list(found.tensors) == list(base.tensors)
    for name, tensor in base.tensors.items():
        more = not name.startswith("vae.") and KEEPS[part](name)
        np.testing.assert_allclose(found.tensors[name].array(), tensor.array() + more, rtol=1e-6, err_msg=name)


def test_a_config_of_the_understanding_expert_alone_takes_the_bases_form_of_layers(quick_checkpoint, tmp_path):
    folder = changed(quick_checkpoint, tmp_path / "tune", KEEPS["understanding alone"], configs=True)
    stated = json.loads((folder / "llm_config.json").read_text())
    (folder / "llm_config.json").write_text(json.dumps({**stated, "layer_module": "Qwen2DecoderLayer"}))
    found = open_checkpoint(Asked(folder, base=quick_checkpoint))
    assert found.config == open_checkpoint(quick_checkpoint).config


def test_a_vae_among_the_weights_comes_before_the_bases(quick_checkpoint, tmp_path):
    (tmp_path / "tune").mkdir()
    vae = {f"vae.{k}": t + 1 for k, t in load_file(quick_checkpoint / "ae.safetensors").items()}
    save_file(vae | load_file(quick_checkpoint / "ema.safetensors"), tmp_path / "tune" / "all.safetensors")
    name = "vae.decoder.conv_in.bias"
    found = open_checkpoint(Asked(tmp_path / "tune", base=quick_checkpoint)).tensors[name].array()
    np.testing.assert_allclose(found, open_checkpoint(quick_checkpoint).tensors[name].array() + 1, rtol=1e-6)


def test_an_index_that_lists_the_vae_too_is_followed(quick_checkpoint, tmp_path):
    folder = Path(shutil.copytree(quick_checkpoint, tmp_path / "a", copy_function=os.link))
    listed = {}
    for new, old in (("weights.safetensors", "ema.safetensors"), ("coder.safetensors", "ae.safetensors")):
        (folder / old).rename(folder / new)
        listed |= dict.fromkeys(load_file(folder / new), new)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    found, wanted = open_checkpoint(folder), open_checkpoint(quick_checkpoint)
    assert list(found.tensors) == list(wanted.tensors)
    assert found.tensors["vae.decoder.conv_in.bias"].stored.file.name == "coder.safetensors"


def test_one_weight_file_of_several_is_named(quick_checkpoint, tmp_path):
    folder = changed(quick_checkpoint, tmp_path / "tune", is_generation, "step-1000.safetensors")
    changed(quick_checkpoint, folder, KEEPS["one tensor"], "step-2000.safetensors")
    refused(Asked(folder, base=quick_checkpoint), "--weights-file: step-1000.safetensors, step-2000.safetensors")
    found = open_checkpoint(Asked(folder, quick_checkpoint, "step-2000.safetensors")).tensors
    assert {t.stored.file.name for t in found.values()} == {
        "step-2000.safetensors",
        "ema.safetensors",
        "ae.safetensors",
    }
    for name in ("step-3000.safetensors", "../tune/step-1000.safetensors", "notes.txt"):
        refused(Asked(folder, quick_checkpoint, name), name, "there: step-1000.safetensors, step-2000.safetensors")
    refused(Asked(folder / "step-1000.safetensors", None, "step-2000.safetensors"), "--weights-file is for a folder")


def test_a_part_of_a_model_without_its_base_says_what_to_name(quick_checkpoint, tmp_path):
    folder = changed(quick_checkpoint, tmp_path / "tune", is_generation, configs=True)
    for name in ("tokenizer.json", "ae.safetensors"):
        os.link(quick_checkpoint / name, folder / name)
    refused(folder, "vit_pos_embed", "with --base")
    (folder / "ae.safetensors").unlink()
    refused(folder, "ae.safetensors: file not found", "with --base")


def test_a_changed_tensor_of_another_shape_or_name_is_refused_with_its_own_file(quick_checkpoint, tmp_path):
    folder = changed(quick_checkpoint, tmp_path / "tune", KEEPS["one tensor"])
    tensors = load_file(folder / "model.safetensors")
    save_file({"llm2vae.bias": tensors["llm2vae.bias"][:3]}, folder / "model.safetensors")
    refused(Asked(folder, quick_checkpoint), "tune/model.safetensors", "'llm2vae.bias' has shape [3]")
    save_file({"llm2vae.bia": tensors["llm2vae.bias"]}, folder / "model.safetensors")
    refused(Asked(folder, quick_checkpoint), "tune/model.safetensors", "'llm2vae.bia' is not part")


def test_a_part_that_is_cut_off_is_named(quick_checkpoint, tmp_path):
    folder = changed(quick_checkpoint, tmp_path / "tune", is_generation)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(Asked(folder, quick_checkpoint), "tune/model.safetensors: the file is cut off: tensor '")


def test_the_command_line_reads_a_part_over_its_base(quick_checkpoint, tmp_path, capsys, monkeypatch):
    folder = changed(quick_checkpoint, tmp_path / "tune", is_generation, "a.safetensors")
    changed(quick_checkpoint, folder, is_generation, "b.safetensors")
    export = ["export", "--ckpt", str(folder), "--out", str(tmp_path / "out"), "--base", str(quick_checkpoint)]
    assert main(export) == 2
    assert "--weights-file: a.safetensors, b.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    asked = []
    monkeypatch.setattr(exporter, "export", lambda ckpt, *_: asked.append(ckpt) or ())
    assert main([*export, "--weights-file", "b.safetensors"]) == 0
    assert asked == [Asked(str(folder), str(quick_checkpoint), "b.safetensors")]
    assert main(["verify", "--base", str(quick_checkpoint)]) == 2
    assert "name it with --ckpt" in capsys.readouterr().err

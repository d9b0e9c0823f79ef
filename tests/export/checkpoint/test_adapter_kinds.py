"""Adapters as diffusers and kohya's scripts write them, DoRA, and several at once: each against its own formula."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import ALPHA, GATE, QUERY, RANK, change_tensors, of, pair, write_adapter
from safetensors.torch import load_file, save_file

from bagel_export.checkpoint.open import open_checkpoint
from bagel_rt.adapters.read import Lora
from bagel_rt.errors import CheckpointError

A, B = pair(64, 64, 1)
WIDE_A, WIDE_B = pair(128, 64, 2)
FLAT = f"lora_unet_{QUERY.replace('.', '_')}"


def weight(checkpoint: Path, module: str = QUERY) -> torch.Tensor:
    return load_file(checkpoint / "ema.safetensors")[f"{module}.weight"].float()


def merged(checkpoint: Path, loras, module: str = QUERY) -> np.ndarray:
    return open_checkpoint(checkpoint, lora=loras).tensors[f"{module}.weight"].array()


def file_of(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Lora:
    """One safetensors file, without a config."""
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, path, metadata or None)
    return Lora(path)


def refused(checkpoint: Path, loras, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(checkpoint, lora=loras)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def rows_of_length(matrix: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """DoRA as its paper writes it: every row has the length that was learnt."""
    return torch.stack([row / math.sqrt(float((row**2).sum())) * m for row, m in zip(matrix, lengths, strict=True)])


@pytest.mark.parametrize(
    "module, alpha, factor",
    [
        (FLAT, torch.tensor(ALPHA), ALPHA / RANK),
        (FLAT, torch.tensor([1.0]), 1 / RANK),
        (FLAT, None, 1.0),  # without an alpha it is the rank
        (FLAT.replace("lora_unet_language_model_", "lora_te_"), torch.tensor(ALPHA), ALPHA / RANK),
        (FLAT.replace("unet", "transformer"), torch.tensor(ALPHA), ALPHA / RANK),
    ],
)
def test_kohyas_adapter_is_alpha_by_rank_times_up_by_down(quick_checkpoint, tmp_path, module, alpha, factor):
    tensors = {f"{module}.lora_down.weight": A, f"{module}.lora_up.weight": B}
    tensors |= {} if alpha is None else {f"{module}.alpha": alpha}
    found = merged(quick_checkpoint, file_of(tmp_path / "style.safetensors", tensors))
    np.testing.assert_allclose(found, weight(quick_checkpoint) + factor * (B @ A), atol=1e-5)


@pytest.mark.parametrize(
    "down, up",
    [
        ("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight"),
        ("{}.lora.down.weight", "{}.lora.up.weight"),
        ("unet.{}.lora_linear_layer.down.weight", "unet.{}.lora_linear_layer.up.weight"),
        ("diffusion_model.{}.lora_A.default.weight", "diffusion_model.{}.lora_B.default.weight"),
        ("base_model.model.transformer.{}.lora_down.weight", "base_model.model.transformer.{}.lora_up.weight"),
    ],
)
def test_diffusers_names_are_read_and_their_scale_is_one(quick_checkpoint, tmp_path, down, up):
    (tmp_path / "style").mkdir()
    path = tmp_path / "style" / "pytorch_lora_weights.safetensors"
    file_of(path, {down.format(QUERY): A, up.format(QUERY): B})
    for given in (path, path.parent):
        found = merged(quick_checkpoint, Lora(given, 0.5))
        np.testing.assert_allclose(found, weight(quick_checkpoint) + 0.5 * (B @ A), atol=1e-5)


def test_diffusers_metadata_is_its_config(quick_checkpoint, tmp_path):
    stated = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA, "transformer.use_rslora": True}
    tensors = {f"transformer.{QUERY}.lora_A.weight": A, f"transformer.{QUERY}.lora_B.weight": B}
    lora = file_of(tmp_path / "a.safetensors", tensors, lora_adapter_metadata=json.dumps(stated))
    found = merged(quick_checkpoint, lora)
    np.testing.assert_allclose(found, weight(quick_checkpoint) + ALPHA / math.sqrt(RANK) * (B @ A), atol=1e-5)
    for text, words in (("{", "not readable as JSON"), ("[]", "is not an object"),
                        ('{"unet.r": 3, "text_encoder.r": 3}', "is of 2 models")):  # fmt: skip
        refused(quick_checkpoint, file_of(tmp_path / "b.safetensors", tensors, lora_adapter_metadata=text), words)


@pytest.mark.parametrize("key", ["lora_magnitude_vector", "lora_magnitude_vector.weight"])
@pytest.mark.parametrize("module, a, b", [(QUERY, A, B), (GATE, WIDE_A, WIDE_B)])
def test_pefts_dora_gives_every_row_the_learnt_length(quick_checkpoint, tmp_path, key, module, a, b):
    lengths = torch.rand(len(b), generator=torch.Generator().manual_seed(3)) + 0.5
    tensors = of(module, a, b) | {f"base_model.model.{module}.{key}": lengths}
    lora = write_adapter(tmp_path / "a", tensors, use_dora=True)
    wanted = rows_of_length(weight(quick_checkpoint, module) + ALPHA / RANK * (b @ a), lengths)
    np.testing.assert_allclose(merged(quick_checkpoint, lora, module), wanted, rtol=1e-4, atol=1e-5)
    tensor = open_checkpoint(quick_checkpoint, lora=lora).tensors[f"{module}.weight"]
    pieces = np.concatenate(list(tensor.chunks(100))).reshape(tensor.shape)
    np.testing.assert_allclose(pieces, tensor.array(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [True, False])
def test_lycoris_dora_gives_rows_or_columns_their_lengths_by_the_shape(quick_checkpoint, tmp_path, rows):
    lengths = torch.rand(64, generator=torch.Generator().manual_seed(4)) + 0.5
    tensors = {f"{FLAT}.lora_down.weight": A, f"{FLAT}.lora_up.weight": B, f"{FLAT}.alpha": torch.tensor(1.0)}
    tensors[f"{FLAT}.dora_scale"] = lengths[:, None] if rows else lengths[None]
    directed = weight(quick_checkpoint) + (B @ A) / RANK
    wanted = rows_of_length(directed, lengths) if rows else rows_of_length(directed.T, lengths).T
    found = merged(quick_checkpoint, file_of(tmp_path / "a.safetensors", tensors))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_row_of_zeros_stays_so_under_dora(quick_checkpoint, tmp_path):
    up = B.clone()
    up[3] = 0

    def with_a_row_of_zeros(tensors):
        tensors[f"{QUERY}.weight"][3] = 0
        return tensors

    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for file in quick_checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    change_tensors(copy, with_a_row_of_zeros)
    lengths = {f"base_model.model.{QUERY}.lora_magnitude_vector": torch.ones(64)}
    lora = write_adapter(tmp_path / "a", of(QUERY, A, up) | lengths, use_dora=True)
    found = merged(copy, lora)
    assert not found[3].any()
    np.testing.assert_allclose(np.linalg.norm(np.delete(found, 3, 0), axis=1), 1, rtol=1e-5)


def test_several_adapters_are_merged_one_after_another_each_with_its_scale(quick_checkpoint, tmp_path):
    a, b = pair(64, 64, 7)
    lengths = torch.rand(64) + 0.5
    one = write_adapter(tmp_path / "one", of(QUERY, A, B))
    tensors = of(QUERY, a, b) | {f"base_model.model.{QUERY}.lora_magnitude_vector": lengths}
    two = write_adapter(tmp_path / "two", tensors, use_dora=True)
    loras = [Lora(one.folder, 0.5), two, Lora(one.folder, 0.25)]
    first = weight(quick_checkpoint) + 0.5 * ALPHA / RANK * (B @ A)
    second = rows_of_length(first + ALPHA / RANK * (b @ a), lengths)
    third = second + 0.25 * ALPHA / RANK * (B @ A)
    np.testing.assert_allclose(merged(quick_checkpoint, loras), third, rtol=1e-4, atol=1e-5)
    assert open_checkpoint(quick_checkpoint, lora=loras).name == "checkpoint+onex0.5+two+onex0.25"


# Bad twins

KOHYA = {f"{FLAT}.lora_down.weight": A, f"{FLAT}.lora_up.weight": B}
NOWHERE = FLAT.replace("q_proj", "qkv")


@pytest.mark.parametrize(
    "tensors, words",
    [
        ({f"{NOWHERE}.lora_down.weight": A, f"{NOWHERE}.lora_up.weight": B}, f"'{NOWHERE}.lora_down.weight' matches"),
        ({f"{FLAT}.lora_down.weight": A}, "has no lora_B beside it"),
        (KOHYA | {f"{FLAT}.alpha": torch.ones(2)}, "has shape [2]; one number"),
        (KOHYA | {f"{FLAT}.alpha": torch.tensor(math.nan)}, "not finite"),
        (KOHYA | {f"{FLAT}.dora_scale": torch.ones(63, 1)}, "has shape [63, 1]; 64 lengths"),
        (KOHYA | {f"{FLAT}.dora_scale": torch.full((64, 1), math.inf)}, "not finite"),
        (KOHYA | {f"{FLAT}.lora_up.weight": torch.ones(64, RANK + 1)}, "their ranks differ"),
        ({f"{FLAT}.hada_w1_a": A}, "another kind, LoHa"),
        ({f"{FLAT}.lokr_w1": A}, "another kind, LoKr"),
        (KOHYA | {f"{FLAT}.lora_mid.weight": A}, "third matrix"),
        ({f"{QUERY}.diff": torch.ones(64, 64)}, "whole differences"),
        ({f"{QUERY}.oft_blocks": torch.ones(64, 64)}, "another kind, OFT"),
    ],
)
def test_what_is_wrong_with_an_adapter_is_named_by_its_key(quick_checkpoint, tmp_path, tensors, words):
    refused(quick_checkpoint, file_of(tmp_path / "a.safetensors", tensors), "a.safetensors", words)


def test_two_adapters_that_replace_one_tensor_are_refused(quick_checkpoint, tmp_path):
    table = {"base_model.model.language_model.lm_head.weight": torch.zeros(272, 64)}
    one, two = (write_adapter(tmp_path / name, table) for name in ("one", "two"))
    refused(quick_checkpoint, [one, two], "replaces 'language_model.lm_head.weight', and so does", "keep one of them")


def test_a_folder_of_several_files_wants_one_named(quick_checkpoint, tmp_path):
    for name in ("one", "two"):
        file_of(tmp_path / f"{name}.safetensors", KOHYA)
    refused(quick_checkpoint, Lora(tmp_path), "2 other safetensors files are there: name one of them")
    (tmp_path / "two.safetensors").unlink()
    assert merged(quick_checkpoint, Lora(tmp_path)).any()


DIFFUSERS = {f"transformer.{QUERY}.lora_A.weight": A, f"transformer.{QUERY}.lora_B.weight": B}


@pytest.mark.parametrize("form", ["peft", "DoRA", "diffusers", "kohya"])
def test_an_adapter_s_file_that_is_cut_off_is_named(quick_checkpoint, tmp_path, form):
    if form in ("peft", "DoRA"):
        more = {f"base_model.model.{QUERY}.lora_magnitude_vector": torch.ones(64)} if form == "DoRA" else {}
        lora = write_adapter(tmp_path / "a", of(QUERY, A, B) | more, use_dora=form == "DoRA")
        path = lora.folder / "adapter_model.safetensors"
    else:
        path = tmp_path / "a.safetensors"
        lora = file_of(path, DIFFUSERS if form == "diffusers" else KOHYA)
    merged(quick_checkpoint, lora)
    path.write_bytes(path.read_bytes()[:-100])
    refused(quick_checkpoint, lora, path.name, "the file is cut off: tensor '")


@pytest.mark.parametrize("form", ["DoRA", "diffusers"])
def test_a_foreign_name_a_missing_part_and_a_wrong_size_are_named_in_every_form(quick_checkpoint, tmp_path, form):
    key = f"base_model.model.{QUERY}" if form == "DoRA" else f"transformer.{QUERY}"
    whole = {f"{key}.lora_A.weight": A, f"{key}.lora_B.weight": B}
    whole |= {f"{key}.lora_magnitude_vector": torch.ones(64)} if form == "DoRA" else {}
    twins = [
        ({k.replace("q_proj", "q_prj"): v for k, v in whole.items()}, "matches nothing in the checkpoint"),
        ({k: v for k, v in whole.items() if "lora_B" not in k}, "has no lora_B beside it"),
        (whole | {f"{key}.lora_C.weight": A.clone()}, "lora_C.weight' matches nothing"),
        (whole | {f"{key}.lora_A.weight": torch.ones(RANK, 63)}, "makes an update of [64, 63]"),
    ]
    if form == "DoRA":
        twins.append((whole | {f"{key}.lora_magnitude_vector": torch.ones(63)}, "has shape [63]; 64 lengths"))
        twins.append(({k: v for k, v in whole.items() if "magnitude" not in k}, "has no lora_magnitude_vector"))
    for number, (tensors, words) in enumerate(twins):
        refused(quick_checkpoint, write_adapter(tmp_path / f"{number}", tensors, use_dora=form == "DoRA"), words)

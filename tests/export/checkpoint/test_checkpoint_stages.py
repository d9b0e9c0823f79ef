"""Checkpoints as training leaves them: stage 1, NeMo's dress, a grown vocabulary; each with its bad twins."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import change_tensors
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import bagel_rt
from bagel_export.artefact.export import export
from bagel_export.checkpoint.open import EMBEDDING, LM_HEAD, open_checkpoint
from bagel_export.training.unified import BagelForUnifiedMultimodal
from bagel_rt.errors import CheckpointError

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
GENERATION = ("time_embedder.", "vae2llm.", "llm2vae.", "latent_pos_embed.")
GROWN = 300  # from 272


@pytest.fixture
def copy(quick_checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(quick_checkpoint, tmp_path / "checkpoint", copy_function=os.link))


def refused(ckpt: Path, *words: str, task: str = "full") -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(ckpt, task)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def exported(ckpt: Path, out: Path, task: str = "full") -> dict:
    for _ in export(ckpt, out, task):
        pass
    manifest = json.loads((out / "bagel_rt.json").read_text())
    assert {graph["parity"]["status"] for graph in manifest["graphs"].values()} == {"verified"}
    return manifest


def config(folder: Path, **values) -> None:
    path = folder / "llm_config.json"
    text = json.dumps(json.loads(path.read_text()) | values)
    path.unlink()
    path.write_text(text)


# Stage 1


@pytest.fixture
def stage1(copy) -> Path:
    """What stage-1 training saves: the dense decoder, the ViT and the connector; no VAE."""
    (copy / "ae.safetensors").unlink()
    change_tensors(copy, lambda t: {k: v for k, v in t.items() if "_moe_gen" not in k and not k.startswith(GENERATION)})
    config(copy, layer_module="Qwen2DecoderLayer")
    return copy


def test_a_stage_1_checkpoint_answers_as_the_whole_model_does(stage1, quick_checkpoint, tmp_path):
    exported(stage1, tmp_path / "stage1", "understand")
    exported(quick_checkpoint, tmp_path / "whole", "understand")
    answers = []
    for name in ("stage1", "whole"):
        with bagel_rt.load(tmp_path / name, backend="onnxruntime") as bagel:
            answers.append(bagel.ask("what is it?", PICTURE, max_tokens=8).token_ids)
    assert answers[0] == answers[1]


def test_a_stage_1_checkpoint_cannot_draw_and_the_error_says_what_it_can_do(stage1, quick_checkpoint):
    refused(stage1, "ae.safetensors", "--task understand")
    os.link(quick_checkpoint / "ae.safetensors", stage1 / "ae.safetensors")
    refused(stage1, "latent_pos_embed.pos_embed", "--task understand")


def test_a_stage_1_checkpoint_that_lacks_an_understanding_tensor_is_refused_without_that_advice(stage1):
    change_tensors(stage1, lambda t: {k: v for k, v in t.items() if k != "connector.fc1.weight"})
    with pytest.raises(CheckpointError, match=r"connector\.fc1\.weight' is missing;") as told:
        open_checkpoint(stage1, "understand")
    assert "--task" not in str(told.value)


# NeMo


def test_a_nemo_export_with_sharded_rooted_keys_and_extra_state_is_the_same_model(copy, quick_checkpoint, tmp_path):
    tensors = {f"model.{key}": value for key, value in load_file(copy / "ema.safetensors").items()}
    tensors["model.language_model.model.layers.0.self_attn.q_proj._extra_state"] = torch.zeros(4, dtype=torch.uint8)
    tensors["model.connector.fc1._extra_state"] = torch.zeros(0, dtype=torch.uint8)
    (copy / "ema.safetensors").unlink()
    both = {f"{n}_config": json.loads((copy / f"{n}_config.json").read_text()) for n in ("llm", "vit")}
    (copy / "config.json").write_text(json.dumps(both))
    listed = {}
    for i in range(2):
        name = f"model-{i + 1:05}-of-00002.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[i::2]}
        save_file(part, copy / name)
        listed |= dict.fromkeys(part, name)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    for name in ("llm_config.json", "vit_config.json"):
        (copy / name).unlink()
    found, wanted = open_checkpoint(copy), open_checkpoint(quick_checkpoint)
    assert found.config == wanted.config
    assert all(np.array_equal(found.tensors[n].array(), t.array()) for n, t in wanted.tensors.items())
    assert [name for name in found.unused if not name.endswith("_extra_state")] == []
    model = BagelForUnifiedMultimodal.from_pretrained(copy, strict=True)
    assert torch.equal(
        model.model.connector.fc1.weight, load_file(quick_checkpoint / "ema.safetensors")["connector.fc1.weight"]
    )


def test_two_roots_for_one_tensor_are_refused(copy):
    change_tensors(copy, lambda t: {**t, f"model.{EMBEDDING}": t[EMBEDDING].clone()})
    refused(copy, EMBEDDING, "twice")


# Vocabulary


def grow(folder: Path, *names: str, rows: int = GROWN) -> None:
    def change(tensors):
        more = {n: torch.cat([tensors[n], torch.randn(rows - 272, 64)]) for n in names}
        return {**tensors, **more}

    change_tensors(folder, change)


def add_tokens(folder: Path, count: int) -> None:
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_tokens([f"<place{i}>" for i in range(count)])
    path.unlink()
    tokenizer.save(str(path))


def test_a_vocabulary_grown_by_fine_tuning_is_taken_from_the_tables(copy, tmp_path):
    grow(copy, EMBEDDING, LM_HEAD)
    add_tokens(copy, 30)
    manifest = exported(copy, tmp_path / "out", "understand")
    assert manifest["model"]["vocab_size"] == GROWN
    assert manifest["embeddings"]["shape"] == [GROWN, 64]
    with bagel_rt.load(tmp_path / "out", backend="onnxruntime") as bagel:
        few = [bagel.ask(f"<place{i}> is where?", max_tokens=3).token_ids for i in (0, 29)]
    assert all(len(ids) >= 1 for ids in few)
    assert BagelForUnifiedMultimodal.from_pretrained(copy, strict=True).get_input_embeddings().num_embeddings == GROWN


def test_a_vocabulary_that_grew_in_one_table_only_is_refused(copy):
    grow(copy, EMBEDDING)
    refused(copy, LM_HEAD, "has 272 rows", "has 300")


def test_tokens_without_a_row_are_refused_by_name(copy, tmp_path):
    add_tokens(copy, 30)
    with pytest.raises(CheckpointError, match=r"'<place29>' has id 290, .* 272 rows"):
        list(export(copy, tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]

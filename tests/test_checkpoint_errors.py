"""A checkpoint damaged in one way: refused by name, with exit code 2, before anything is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bagel_export.artefact import export
from bagel_export.checkpoint import open_checkpoint
from bagel_rt.errors import BagelError

LLM, VIT, BOTH, WEIGHTS, VAE = "llm_config.json", "vit_config.json", "config.json", "ema.safetensors", "ae.safetensors"
LLM_REQUIRED = (
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
)
VIT_REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "image_size",
)
OPTIONAL = [
    (LLM, "layer_module", "Qwen2MoTDecoderLayer"),
    (LLM, "qk_norm", True),
    (LLM, "tie_word_embeddings", False),
    (VIT, "layer_norm_eps", 1e-6),
    (VIT, "hidden_act", "gelu_pytorch_tanh"),
    (VIT, "num_channels", 3),
    (VIT, "rope", False),
]
GENERATION = ("time_embedder.", "vae2llm.", "llm2vae.", "latent_pos_embed.")
EMBEDDING = "language_model.model.embed_tokens.weight"
QUERY = "language_model.model.layers.1.self_attn.q_proj_moe_gen.weight"


@pytest.fixture
def checkpoint(small_checkpoint, tmp_path) -> Path:
    """A copy whose files may be replaced, but not written into: they are links."""
    return shutil.copytree(small_checkpoint, tmp_path / "checkpoint", copy_function=os.link)


@pytest.fixture
def refused(checkpoint, tmp_path) -> Callable[..., str]:
    """Export the copy and expect an error that names all of `names`; returns the message."""
    outs = tmp_path / "outs"
    outs.mkdir()

    def check(*names: str, task: str = "full") -> str:
        with pytest.raises(BagelError) as caught:
            next(export(checkpoint, outs / "artefact", task))
        message = str(caught.value)
        assert caught.value.exit_code == 2
        assert str(checkpoint) in message
        assert [n for n in names if n not in message] == [], message
        assert list(outs.iterdir()) == []
        return message

    return check


def replace_bytes(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def change_json(path: Path, change: Callable[[dict], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    replace_bytes(path, json.dumps(values).encode())


def change_tensors(path: Path, change: Callable[[dict], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    path.unlink()
    save_file(tensors, path)


def change_header(path: Path, change: Callable[[dict], object]) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    replace_bytes(path, len(text).to_bytes(8, "little") + text + content[8 + length :])


def drop(*prefixes: str) -> Callable[[dict], None]:
    def change(values: dict) -> None:
        found = [name for name in values if name.startswith(prefixes)]
        assert found
        for name in found:
            del values[name]

    return change


# Configs


@pytest.mark.parametrize("file, key", [(LLM, k) for k in LLM_REQUIRED] + [(VIT, k) for k in VIT_REQUIRED])
def test_a_missing_config_key_is_named_with_its_file(checkpoint, refused, file, key):
    change_json(checkpoint / file, lambda values: values.pop(key))
    refused(file, f"'{key}'", "missing")


@pytest.mark.parametrize("file, key", [(LLM, "rope_theta"), (VIT, "image_size")])
def test_a_config_key_that_is_null_counts_as_missing(checkpoint, refused, file, key):
    change_json(checkpoint / file, lambda values: values.update({key: None}))
    refused(file, f"'{key}'", "missing")


@pytest.mark.parametrize("file, key, default", OPTIONAL)
def test_a_key_that_may_be_missing_has_its_documented_default(checkpoint, file, key, default):
    change_json(checkpoint / file, lambda values: values.update({key: default}))
    stated = open_checkpoint(checkpoint)
    change_json(checkpoint / file, lambda values: values.pop(key))
    assert key not in json.loads((checkpoint / file).read_text())
    assert open_checkpoint(checkpoint).config == stated.config


def test_all_keys_that_may_be_missing_may_be_missing_together(checkpoint):
    before = open_checkpoint(checkpoint).config
    for file in (LLM, VIT):
        keys = [key for of, key, _ in OPTIONAL if of == file]
        change_json(checkpoint / file, lambda values, keys=keys: [values.pop(key, None) for key in keys])
    assert open_checkpoint(checkpoint).config == before


def write_config_json(checkpoint: Path) -> None:
    sections = {key: json.loads((checkpoint / f"{key}.json").read_text()) for key in ("llm_config", "vit_config")}
    (checkpoint / BOTH).write_text(json.dumps(sections))


@pytest.mark.parametrize("file", [LLM, VIT])
@pytest.mark.parametrize("with_config_json", [False, True])
def test_one_of_the_two_configs_alone_is_refused_even_beside_a_full_config_json(
    checkpoint, refused, file, with_config_json
):
    if with_config_json:
        write_config_json(checkpoint)
    (checkpoint / file).unlink()
    refused(file, "not found")


@pytest.mark.parametrize("file, key", [(LLM, "rope_theta"), (VIT, "patch_size")])
def test_config_json_fills_nothing_in(checkpoint, refused, file, key):
    write_config_json(checkpoint)
    change_json(checkpoint / file, lambda values: values.pop(key))
    assert BOTH not in refused(file, f"'{key}'").replace(file, "")


@pytest.mark.parametrize("content", ['{"llm_config": {"hidden_size": 3}, "max_latent_size": 3}', "not JSON"])
def test_config_json_is_not_read_beside_the_two_configs(checkpoint, content):
    before = open_checkpoint(checkpoint).config
    (checkpoint / BOTH).write_text(content)
    assert open_checkpoint(checkpoint).config == before


def test_config_json_is_read_when_both_configs_are_absent(checkpoint):
    before = open_checkpoint(checkpoint).config
    write_config_json(checkpoint)
    (checkpoint / LLM).unlink()
    (checkpoint / VIT).unlink()
    assert open_checkpoint(checkpoint).config == before


@pytest.mark.parametrize(
    "change, key",
    [
        (lambda values: values["llm_config"].pop("rope_theta"), "llm_config.rope_theta"),
        (lambda values: values["vit_config"].pop("patch_size"), "vit_config.patch_size"),
        (lambda values: values.pop("llm_config"), "llm_config"),
        (lambda values: values.pop("vit_config"), "vit_config"),
        (lambda values: values.update(vit_config=[]), "vit_config"),
    ],
)
def test_config_json_alone_must_be_complete(checkpoint, refused, change, key):
    write_config_json(checkpoint)
    change_json(checkpoint / BOTH, change)
    (checkpoint / LLM).unlink()
    (checkpoint / VIT).unlink()
    refused(f"{checkpoint / BOTH}", key)


def test_a_checkpoint_without_any_config_is_refused(checkpoint, refused):
    (checkpoint / LLM).unlink()
    (checkpoint / VIT).unlink()
    refused(LLM, VIT, "not found")


@pytest.mark.parametrize(
    "file, key, value",
    [
        (LLM, "hidden_size", "64"),
        (LLM, "hidden_size", 64.0),
        (LLM, "hidden_size", True),
        (LLM, "hidden_size", 0),
        (LLM, "num_hidden_layers", -2),
        (LLM, "vocab_size", [272]),
        (LLM, "rope_theta", "1e6"),
        (LLM, "rope_theta", True),
        (LLM, "rope_theta", 0),
        (LLM, "rope_theta", float("nan")),
        (LLM, "rms_norm_eps", float("inf")),
        (LLM, "rms_norm_eps", -1e-6),
        (LLM, "qk_norm", "true"),
        (LLM, "qk_norm", 1),
        (LLM, "tie_word_embeddings", "no"),
        (LLM, "layer_module", "LlamaDecoderLayer"),
        (LLM, "layer_module", 3),
        (LLM, "hidden_act", "gelu"),
        (LLM, "head_dim", 128),
        (LLM, "num_attention_heads", 3),  # 64 is no multiple
        (LLM, "num_attention_heads", 64),  # a head of one number has no halves to rotate
        (LLM, "num_key_value_heads", 3),
        (VIT, "hidden_size", "32"),
        (VIT, "num_attention_heads", 5),
        (VIT, "num_hidden_layers", 1),
        (VIT, "image_size", 225),
        (VIT, "num_channels", 1),
        (VIT, "hidden_act", "relu"),
        (VIT, "rope", True),
        (VIT, "rope", "no"),
        (VIT, "layer_norm_eps", "1e-6"),
    ],
)
def test_a_config_value_that_cannot_be_is_named_with_its_file_and_key(checkpoint, refused, file, key, value):
    change_json(checkpoint / file, lambda values: values.update({key: value}))
    refused(file, key)


@pytest.mark.parametrize("file", [LLM, VIT])
@pytest.mark.parametrize("content", [b"{", b"[]", b"3", b"", b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(checkpoint, refused, file, content):
    replace_bytes(checkpoint / file, content)
    refused(str(checkpoint / file))


@pytest.mark.parametrize(
    "change, key",
    [
        (lambda values: values.pop("vae_transform"), "vae_transform"),
        (lambda values: values.update(vit_transform=3), "vit_transform"),
        (lambda values: values["vae_transform"].pop("max_size"), "vae_transform.max_size"),
        (lambda values: values["vae_transform"].update(stride=8), "vae_transform.stride"),
        (lambda values: values["vit_transform"].update(stride=16), "vit_transform.stride"),
        (lambda values: values["vit_transform"].update(min_size="56"), "vit_transform.min_size"),
        (lambda values: values["vit_transform"].update(max_pixels="many"), "vit_transform.max_pixels"),
        (lambda values: values["vit_transform"].update(colour=1), "vit_transform.colour"),
    ],
)
def test_a_wrong_preprocessor_config_is_named_with_its_key(checkpoint, refused, change, key):
    change_json(checkpoint / "preprocessor_config.json", change)
    refused("preprocessor_config.json", key)


# Tensors


@pytest.mark.parametrize(
    "file, key",
    [
        (WEIGHTS, EMBEDDING),
        (WEIGHTS, "language_model.model.layers.0.self_attn.k_proj.bias"),
        (WEIGHTS, "language_model.model.layers.1.mlp.down_proj.weight"),
        (WEIGHTS, "language_model.model.norm.weight"),
        (WEIGHTS, "language_model.lm_head.weight"),
        (WEIGHTS, "vit_model.vision_model.embeddings.patch_embedding.bias"),
        (WEIGHTS, "vit_model.vision_model.post_layernorm.weight"),
        (WEIGHTS, "connector.fc1.weight"),
        (WEIGHTS, "vit_pos_embed.pos_embed"),
        (VAE, "decoder.conv_out.bias"),
    ],
)
def test_a_missing_tensor_is_named_with_its_file(checkpoint, refused, file, key):
    change_tensors(checkpoint / file, lambda tensors: tensors.pop(key))
    refused(file, f"'{key}'", "missing")


@pytest.mark.parametrize("file, key", [(WEIGHTS, "language_model.model.layers.2.mlp.up_proj.weight"), (VAE, "extra")])
def test_an_unexpected_tensor_is_named_with_its_file(checkpoint, refused, file, key):
    change_tensors(checkpoint / file, lambda tensors: tensors.update({key: torch.zeros(2)}))
    refused(file, f"'{key}'", "not part of the model")


@pytest.mark.parametrize(
    "file, key, shape",
    [
        (WEIGHTS, EMBEDDING, (271, 64)),
        (WEIGHTS, QUERY, (64, 32)),
        (WEIGHTS, "language_model.model.layers.0.self_attn.q_norm.weight", (1, 16)),
        (WEIGHTS, "vit_model.vision_model.embeddings.patch_embedding.weight", (32, 3, 14, 7)),
        (WEIGHTS, "vit_pos_embed.pos_embed", (255, 64)),
        (WEIGHTS, "vit_pos_embed.pos_embed", (225, 64)),
        (WEIGHTS, "latent_pos_embed.pos_embed", (250, 64)),
        (WEIGHTS, "latent_pos_embed.pos_embed", (256, 32)),
        (VAE, "encoder.conv_in.weight", (33, 3, 3, 3)),
        (VAE, "encoder.conv_in.weight", (64, 3, 3, 3)),
        (VAE, "decoder.conv_out.bias", (4,)),
    ],
)
def test_a_tensor_of_the_wrong_shape_is_named_with_its_file(checkpoint, refused, file, key, shape):
    change_tensors(checkpoint / file, lambda tensors: tensors.update({key: torch.zeros(shape)}))
    message = refused(file)
    # a VAE of another width is met at the first tensor that does not follow it
    assert f"'{key}'" in message or (file == VAE and "conv_in" in key and "is expected" in message)


def test_a_key_with_and_without_model_in_front_is_refused(checkpoint, refused):
    change_tensors(checkpoint / WEIGHTS, lambda t: t.update({f"model.{EMBEDDING}": t[EMBEDDING].clone()}))
    refused(WEIGHTS, f"'{EMBEDDING}'", "twice")


@pytest.mark.parametrize("dtype, name", [(torch.int8, "I8"), (torch.int64, "I64"), (torch.bool, "BOOL")])
@pytest.mark.parametrize("file, key", [(WEIGHTS, QUERY), (VAE, "decoder.conv_in.weight")])
def test_a_tensor_of_an_unsupported_type_is_refused(checkpoint, refused, file, key, dtype, name):
    change_tensors(
        checkpoint / file, lambda tensors: tensors.update({key: torch.zeros_like(tensors[key], dtype=dtype)})
    )
    refused(file, f"'{key}'", name)


# Files


@pytest.mark.parametrize("file", [WEIGHTS, VAE])
@pytest.mark.parametrize("kept", [0.999999, 0.5, 0.001, 0.0])
def test_a_file_that_was_cut_off_is_refused(checkpoint, refused, file, kept):
    content = (checkpoint / file).read_bytes()
    replace_bytes(checkpoint / file, content[: int(len(content) * kept)])
    refused(str(checkpoint / file), "cut off")


@pytest.mark.parametrize("file", [WEIGHTS, VAE])
@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04" + b"a torch checkpoint, say" * 100,
        b"<!DOCTYPE html><html>404</html>",
        (1 << 62).to_bytes(8, "little") + b"{}",
        (101_000_000).to_bytes(8, "little") + b" " * 64,
        (7).to_bytes(8, "little") + b"no json",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"\xff\xfe{}",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
        b"\x00" * 4,
    ],
    ids=["zip", "html", "absurd length", "length over the limit", "no JSON", "a list", "no UTF-8", "deep", "4 bytes"],
)
def test_a_file_that_is_no_safetensors_file_is_refused(checkpoint, refused, file, content):
    replace_bytes(checkpoint / file, content)
    refused(str(checkpoint / file), "safetensors file")


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.pop("dtype"),
        lambda entry: entry.update(shape="64"),
        lambda entry: entry.update(shape=[-64, 64]),
        lambda entry: entry.update(shape=[10**30]),
        lambda entry: entry.update(data_offsets=[0]),
        lambda entry: entry.update(data_offsets=[-4, 64 * 64 * 4 - 4]),
        lambda entry: entry.update(data_offsets=[0, 8]),
        lambda entry: entry.update(data_offsets=[1 << 40, (1 << 40) + 64 * 64 * 4]),
    ],
)
def test_a_malformed_header_entry_is_named_with_its_file(checkpoint, refused, change):
    change_header(checkpoint / WEIGHTS, lambda header: change(header[QUERY]))
    refused(WEIGHTS, f"'{QUERY}'")


def test_a_header_entry_that_is_no_object_is_refused(checkpoint, refused):
    change_header(checkpoint / WEIGHTS, lambda header: header.update({QUERY: 3}))
    refused(WEIGHTS, f"'{QUERY}'")


def test_a_missing_weight_file_is_named(checkpoint, refused):
    (checkpoint / WEIGHTS).unlink()
    refused(str(checkpoint / WEIGHTS), "not found")


def test_a_weight_file_that_is_a_folder_is_refused(checkpoint, refused):
    (checkpoint / WEIGHTS).unlink()
    (checkpoint / WEIGHTS).mkdir()
    refused(str(checkpoint / WEIGHTS), "cannot be read")


def test_a_missing_folder_is_refused(checkpoint, refused):
    shutil.rmtree(checkpoint)
    refused("no such checkpoint folder")


# Tokenizer


def test_a_missing_tokenizer_is_refused(checkpoint, refused):
    (checkpoint / "tokenizer.json").unlink()
    refused("tokenizer.json", "vocab.json", "merges.txt")


@pytest.mark.parametrize("there", ["vocab.json", "merges.txt"])
def test_half_a_slow_tokenizer_is_refused(checkpoint, refused, there):
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / there).write_text("{}")
    refused("tokenizer.json", "vocab.json", "merges.txt")


@pytest.mark.parametrize("content", [b"{", b"", b"{}", b"[]", b'{"model": {"type": "Unknown"}}', b"\xff", b"null"])
def test_a_broken_tokenizer_is_refused(checkpoint, refused, content):
    replace_bytes(checkpoint / "tokenizer.json", content)
    refused("tokenizer.json")


@pytest.mark.parametrize("vocab, merges", [("{", "a b"), ("[]", "a b"), ('{"a": 0}', "one two three four\nx y")])
def test_a_broken_slow_tokenizer_is_refused(checkpoint, refused, vocab, merges):
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "vocab.json").write_text(vocab)
    (checkpoint / "merges.txt").write_text(merges)
    refused()


def test_special_tokens_beyond_the_embedding_table_are_refused(checkpoint, refused):
    def fewer_rows(tensors: dict) -> None:
        for key in (EMBEDDING, "language_model.lm_head.weight"):
            tensors[key] = tensors[key][:258].clone()

    change_json(checkpoint / LLM, lambda values: values.update(vocab_size=258))
    change_tensors(checkpoint / WEIGHTS, fewer_rows)
    refused("tokenizer.json", "<|im_end|>", "vocab_size", "258")


# Tasks


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / VAE).unlink(),
        lambda folder: change_tensors(folder / VAE, drop("encoder.conv_in.")),
        lambda folder: change_tensors(folder / VAE, drop("decoder.")),
        lambda folder: change_tensors(folder / WEIGHTS, drop("latent_pos_embed.")),
        lambda folder: change_tensors(folder / WEIGHTS, drop("time_embedder.")),
        lambda folder: change_tensors(folder / WEIGHTS, drop(*GENERATION)),
        lambda folder: change_tensors(
            folder / WEIGHTS, lambda t: [t.pop(k) for k in list(t) if "_moe_gen" in k or k.startswith(GENERATION)]
        ),
        lambda folder: change_tensors(folder / WEIGHTS, lambda t: [t.pop(k) for k in list(t) if "_moe_gen" in k]),
    ],
    ids=["no VAE", "no VAE width", "no decoder", "no table", "no time", "no flow", "no generation", "no experts"],
)
def test_a_checkpoint_that_cannot_draw_is_refused_with_a_hint_and_opens_for_understanding(checkpoint, refused, damage):
    damage(checkpoint)
    refused("--task understand")
    opened = open_checkpoint(checkpoint, "understand")
    assert not [name for name in opened.tensors if "_moe_gen" in name or name.startswith((*GENERATION, "vae."))]


def test_what_understanding_itself_lacks_is_not_excused_by_a_hint(checkpoint, refused):
    change_tensors(checkpoint / WEIGHTS, lambda tensors: tensors.pop("connector.fc2.bias"))
    assert "--task" not in refused("connector.fc2.bias")
    assert "--task" not in refused("connector.fc2.bias", task="understand")


def test_a_checkpoint_without_generation_is_exported_for_understanding(checkpoint, tmp_path):
    (checkpoint / VAE).unlink()
    gen = lambda t: [t.pop(k) for k in list(t) if "_moe_gen" in k or k.startswith(GENERATION)]  # noqa: E731
    change_tensors(checkpoint / WEIGHTS, gen)
    for _ in export(checkpoint, tmp_path / "artefact", task="understand"):
        pass
    manifest = json.loads((tmp_path / "artefact" / "bagel_rt.json").read_text())
    assert manifest["task"] == "understand"
    assert {entry["parity"]["status"] for entry in manifest["graphs"].values()} == {"verified"}


def test_an_unknown_task_is_refused(refused, checkpoint, tmp_path):
    with pytest.raises(BagelError, match="'draw' is unknown") as caught:
        next(export(checkpoint, tmp_path / "outs" / "artefact", "draw"))
    assert caught.value.exit_code == 2
    assert list((tmp_path / "outs").iterdir()) == []


# The command line


def run_export(*args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bagel_rt.cli", "export", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_ends_with_2_and_one_line_and_leaves_nothing(checkpoint, tmp_path):
    outs = tmp_path / "outs"
    outs.mkdir()
    change_json(checkpoint / LLM, lambda values: values.pop("rope_theta"))
    done = run_export("--ckpt", checkpoint, "--out", outs / "artefact")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines() == [done.stderr.strip()]
    assert "llm_config.json" in done.stderr
    assert "'rope_theta'" in done.stderr
    assert done.stdout == ""
    assert list(outs.iterdir()) == []


def test_the_command_without_out_leaves_no_data_folder_behind(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("BAGEL_RT_HOME", str(tmp_path / "home"))
    replace_bytes(checkpoint / WEIGHTS, b"")
    done = run_export("--ckpt", checkpoint)
    assert done.returncode == 2
    assert "ema.safetensors" in done.stderr
    assert not (tmp_path / "home").exists()

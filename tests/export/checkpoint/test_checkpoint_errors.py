"""Every way a checkpoint can be wrong: an error that names file and key, before anything is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import bagel_rt
from bagel_export.artefact.export import export
from bagel_export.checkpoint.open import open_checkpoint

LLM_REQUIRED = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "max_position_embeddings", "rms_norm_eps", "rope_theta", "hidden_act",
)  # fmt: skip
VIT_REQUIRED = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size", "image_size",
)  # fmt: skip


@pytest.fixture
def copy(quick_checkpoint, tmp_path):
    """The random checkpoint under hard links; `edit` and `tensors` replace files, never write through a link."""
    folder = tmp_path / "in" / "checkpoint"
    folder.parent.mkdir()
    shutil.copytree(quick_checkpoint, folder, copy_function=os.link)
    return folder


@pytest.fixture
def refused(tmp_path):
    """Export must raise a CheckpointError with these words and write nothing."""

    def check(folder, *words, task="full"):
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        with pytest.raises(bagel_rt.CheckpointError) as caught:
            list(export(folder, out / "model", task))
        assert caught.value.exit_code == 2
        assert [word for word in words if word not in str(caught.value)] == [], caught.value
        assert list(out.iterdir()) == []

    return check


def edit(path, **values):
    """Replace keys of a JSON file; None removes one."""
    stored = json.loads(path.read_text())
    for key, value in values.items():
        stored.pop(key, None)
        if value is not None:
            stored[key] = value
    path.unlink()
    path.write_text(json.dumps(stored))


def tensors(path, change):
    stored = change(load_file(path))
    path.unlink()
    save_file(stored, path)


def replace(path, data: bytes):
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("key", LLM_REQUIRED)
def test_a_missing_decoder_key_is_an_error(copy, refused, key):
    edit(copy / "llm_config.json", **{key: None})
    refused(copy, "llm_config.json", f"'{key}'")


@pytest.mark.parametrize("key", VIT_REQUIRED)
def test_a_missing_vit_key_is_an_error(copy, refused, key):
    edit(copy / "vit_config.json", **{key: None})
    refused(copy, "vit_config.json", f"'{key}'")


def test_the_keys_that_may_be_missing_have_the_stated_defaults(copy):
    before = open_checkpoint(copy).config
    edit(copy / "llm_config.json", layer_module=None, qk_norm=None, tie_word_embeddings=None)
    edit(copy / "vit_config.json", layer_norm_eps=None, hidden_act=None, num_channels=None, rope=None)
    assert open_checkpoint(copy).config == before
    assert before.llm.layer_module == "Qwen2MoTDecoderLayer"
    assert (before.llm.qk_norm, before.llm.tie_word_embeddings, before.vit.layer_norm_eps) == (True, False, 1e-6)


@pytest.mark.parametrize(
    "file, key, value, words",
    [
        ("llm_config.json", "hidden_size", "64", "a positive integer"),
        ("llm_config.json", "hidden_size", True, "a positive integer"),
        ("llm_config.json", "num_hidden_layers", 0, "a positive integer"),
        ("llm_config.json", "rope_theta", -1.0, "a positive number"),
        ("llm_config.json", "qk_norm", "yes", "true or false"),
        ("llm_config.json", "layer_module", "Mamba", "Qwen2MoTDecoderLayer"),
        ("llm_config.json", "hidden_act", "relu", "allowed: silu"),
        ("llm_config.json", "head_dim", 32, "head_dim"),
        ("llm_config.json", "num_attention_heads", 5, "not a multiple"),
        ("vit_config.json", "rope", True, "rope"),
        ("vit_config.json", "num_channels", 4, "allowed: 3"),
        ("vit_config.json", "hidden_act", "gelu", "gelu_pytorch_tanh"),
        ("vit_config.json", "image_size", 112, "vit_pos_embed.pos_embed"),
    ],
)
def test_a_config_value_that_cannot_be_is_refused(copy, refused, file, key, value, words):
    edit(copy / file, **{key: value})
    refused(copy, words)


@pytest.mark.parametrize("gone", ["llm_config.json", "vit_config.json"])
def test_one_config_file_alone_is_not_enough_even_with_config_json(copy, refused, gone):
    (copy / "config.json").write_text(
        json.dumps({f"{n}_config": json.loads((copy / f"{n}_config.json").read_text()) for n in ("llm", "vit")})
    )
    (copy / gone).unlink()
    refused(copy, gone, "not found")


def test_config_json_is_read_when_both_files_are_absent_and_only_then(copy, refused):
    both = {f"{n}_config": json.loads((copy / f"{n}_config.json").read_text()) for n in ("llm", "vit")}
    before = open_checkpoint(copy).config
    (copy / "config.json").write_text("not even JSON")
    assert open_checkpoint(copy).config == before
    for name in ("llm_config.json", "vit_config.json"):
        (copy / name).unlink()
    refused(copy, "config.json", "not readable as JSON")
    (copy / "config.json").write_text(json.dumps(both))
    assert open_checkpoint(copy).config == before
    del both["llm_config"]["rope_theta"]
    (copy / "config.json").write_text(json.dumps(both))
    refused(copy, "config.json", "'llm_config.rope_theta'")
    (copy / "config.json").write_text(json.dumps({"llm_config": both["llm_config"]}))
    refused(copy, "config.json", "'vit_config'")
    (copy / "config.json").unlink()
    refused(copy, "llm_config.json", "not found")


@pytest.mark.parametrize("file", ["llm_config.json", "vit_config.json", "preprocessor_config.json", "tokenizer.json"])
def test_invalid_json_is_an_error_naming_the_file(copy, refused, file):
    replace(copy / file, b'{"hidden_size": 64,')
    refused(copy, file, "not readable as JSON")


@pytest.mark.parametrize(
    "values, words",
    [
        ({"vae_transform": None}, "vae_transform"),
        ({"vit_transform": {"max_size": 112, "min_size": 56}}, "vit_transform.stride"),
        ({"vit_transform": {"max_size": 112, "min_size": 56, "stride": 16}}, "a multiple of 14"),
        ({"vae_transform": {"max_size": "large", "min_size": 56, "stride": 16}}, "vae_transform.max_size"),
        ({"vae_transform": {"max_size": 64, "min_size": 64, "stride": 16, "crop": 1}}, "vae_transform.crop"),
    ],
)
def test_a_malformed_preprocessor_config_is_refused(copy, refused, values, words):
    edit(copy / "preprocessor_config.json", **values)
    refused(copy, "preprocessor_config.json", words)


def test_without_a_preprocessor_config_the_released_limits_hold(copy):
    (copy / "preprocessor_config.json").unlink()
    checkpoint = open_checkpoint(copy)
    rule = checkpoint.vae_transform
    assert (rule.max_size, rule.min_size, rule.stride, rule.max_pixels) == (1024, 512, 16, 1806336)
    assert (checkpoint.vit_transform.max_size, checkpoint.vit_transform.min_size) == (980, 224)


NORM = "language_model.model.norm.weight"


@pytest.mark.parametrize(
    "file, change, words",
    [
        ("ema.safetensors", lambda t: {k: v for k, v in t.items() if k != NORM}, (NORM, "missing")),
        ("ema.safetensors", lambda t: {**t, "extra.weight": torch.zeros(3)}, ("extra.weight", "not part")),
        ("ema.safetensors", lambda t: {**t, NORM: torch.zeros(65)}, (NORM, "[65]", "[64]")),
        ("ema.safetensors", lambda t: {**t, NORM: torch.zeros(64, dtype=torch.int8)}, (NORM, "I8", "BF16")),
        ("ema.safetensors", lambda t: {**t, "model." + NORM: t[NORM].clone()}, (NORM, "twice")),
        ("ema.safetensors", lambda t: {**t, "vit_pos_embed.pos_embed": torch.zeros(255, 64)}, ("square",)),
        ("ae.safetensors", lambda t: {k: v for k, v in t.items() if k != "decoder.conv_in.bias"}, ("decoder.conv_in",)),
        ("ae.safetensors", lambda t: {**t, "encoder.conv_in.weight": torch.zeros(33, 3, 3, 3)}, ("multiple of 32",)),
        ("ae.safetensors", lambda t: {**t, "quant_conv.weight": torch.zeros(3)}, ("quant_conv.weight",)),
    ],
)
def test_a_tensor_that_is_missing_unexpected_or_of_a_wrong_shape_is_named(copy, refused, file, change, words):
    tensors(copy / file, change)
    refused(copy, file, *words)


@pytest.mark.parametrize("file", ["ema.safetensors", "ae.safetensors"])
@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda data: data[: len(data) // 2], "cut off"),
        (lambda data: data[:5], "cut off"),
        (lambda data: b"", "cut off"),
        (lambda data: b"\x00" * 1000, "header is not JSON"),
        (lambda data: b"PK\x03\x04" + data[4:], "not a safetensors file"),
        (lambda data: (2**62).to_bytes(8, "little") + data[8:], str(2**62)),
        (lambda data: (300_000_000).to_bytes(8, "little") + data[8:], "300000000"),
        (lambda data: (2).to_bytes(8, "little") + b"[]" + data[10:], "not an object"),
        (lambda data: (20).to_bytes(8, "little") + b'{"a": {"dtype": 3}} ' + data[10:], "'a' has a malformed"),
    ],
)
def test_a_file_that_is_not_whole_safetensors_is_named(copy, refused, file, damage, words):
    replace(copy / file, damage((copy / file).read_bytes()))
    refused(copy, file, words)


def test_a_header_whose_shape_and_size_disagree_is_refused(copy, refused):
    data = (copy / "ema.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header[NORM]["shape"] = [63]
    text = json.dumps(header).encode()
    replace(copy / "ema.safetensors", len(text).to_bytes(8, "little") + text + data[8 + length :])
    refused(copy, "ema.safetensors", NORM, "[63]")


def test_a_missing_folder_or_weight_file_is_named(copy, refused, tmp_path):
    refused(tmp_path / "nowhere", "nowhere", "no such checkpoint folder")
    (copy / "ema.safetensors").unlink()
    refused(copy, "ema.safetensors", "not found")


def test_a_missing_or_unreadable_tokenizer_is_named(copy, refused):
    replace(copy / "tokenizer.json", b'{"version": "1.0"}')
    refused(copy, "tokenizer.json", "not a readable tokenizer")
    (copy / "tokenizer.json").unlink()
    refused(copy, "tokenizer.json", "vocab.json", "merges.txt")


def test_special_ids_beyond_the_vocabulary_are_refused(copy, refused, tmp_path):
    from bagel_export.checkpoint.synthetic import Shape, write_checkpoint

    other = write_checkpoint(tmp_path / "in" / "narrow", Shape().with_llm(vocab_size=264))
    wide = json.loads((other / "tokenizer.json").read_text())
    wide["model"]["vocab"] |= {f"extra{i}": 256 + i for i in range(9)}
    for token in wide["added_tokens"]:
        token["id"] += 9
    replace(other / "tokenizer.json", json.dumps(wide).encode())
    refused(other, "table has 264 rows")


def generation_left_out(stored):
    roots = ("time_embedder", "vae2llm", "llm2vae", "latent_pos_embed")
    return {k: v for k, v in stored.items() if "_moe_gen" not in k and not k.startswith(roots)}


def test_a_checkpoint_that_cannot_draw_is_refused_with_a_hint_and_exports_for_understanding(copy, refused, tmp_path):
    (copy / "ae.safetensors").unlink()
    refused(copy, "ae.safetensors", "--task understand")
    tensors(copy / "ema.safetensors", generation_left_out)
    refused(copy, "--task understand")
    (copy / "ae.safetensors").write_bytes(b"")
    refused(copy, "ema.safetensors", "--task understand")
    (copy / "ae.safetensors").unlink()
    list(export(copy, tmp_path / "model", "understand", verify=False))
    with bagel_rt.load(tmp_path / "model") as bagel:
        assert isinstance(bagel.ask("hello", max_tokens=3).text, str)


def test_the_command_line_says_it_in_one_line_and_exits_with_two(copy, tmp_path):
    edit(copy / "llm_config.json", rope_theta=None)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "bagel_rt.cli", "export", "--ckpt", copy, "--out", tmp_path / "out" / "model"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "llm_config.json: key 'rope_theta' is missing" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "file, key, value",
    [
        ("llm_config.json", "num_hidden_layers", 10**9),
        ("llm_config.json", "intermediate_size", 10**18),
        ("llm_config.json", "rope_theta", 10**400),
        ("vit_config.json", "intermediate_size", 10**30),
        ("vit_config.json", "num_hidden_layers", 10**6),
    ],
)
def test_an_absurd_number_is_named_instead_of_tried(copy, refused, file, key, value):
    edit(copy / file, **{key: value})
    refused(copy, f"{copy / file}", f"'{key}'")


@pytest.mark.parametrize(
    "file, key, value",
    [
        ("llm_config.json", "num_attention_heads", 3),
        ("llm_config.json", "num_attention_heads", 64),  # a head of one number has no halves to rotate
        ("llm_config.json", "num_key_value_heads", 3),
        ("vit_config.json", "num_attention_heads", 5),
        ("vit_config.json", "num_hidden_layers", 1),
        ("vit_config.json", "image_size", 225),
    ],
)
def test_sizes_that_do_not_go_together_are_named_with_their_file(copy, refused, file, key, value):
    edit(copy / file, **{key: value})
    refused(copy, f"{copy / file}", key)


def test_json_nested_without_end_is_refused(copy, refused):
    deep = b"[" * 100_000
    replace(copy / "vit_config.json", deep)
    refused(copy, "vit_config.json", "not readable as JSON")
    replace(copy / "ema.safetensors", len(deep).to_bytes(8, "little") + deep)
    refused(copy, "ema.safetensors", "not JSON")


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.pop("dtype"),
        lambda entry: entry.update(shape=[10**30]),
        lambda entry: entry.update(shape=[-64]),
        lambda entry: entry.update(data_offsets=[0]),
        lambda entry: entry.update(data_offsets=[-4, 252]),
        lambda entry: entry.update(data_offsets=[1 << 40, (1 << 40) + 256]),
    ],
)
def test_a_malformed_header_entry_is_named(copy, refused, change):
    data = (copy / "ema.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header[NORM])
    text = json.dumps(header).encode()
    replace(copy / "ema.safetensors", len(text).to_bytes(8, "little") + text + data[8 + length :])
    refused(copy, "ema.safetensors", f"'{NORM}'")


def test_a_pixel_limit_that_is_no_number_is_refused(copy, refused):
    edit(copy / "preprocessor_config.json", vit_transform=dict(max_size=112, min_size=56, stride=14, max_pixels="many"))
    refused(copy, "preprocessor_config.json", "vit_transform.max_pixels")


MALFORMED = [
    {"dtype": 5}, {"dtype": None}, {"shape": [-2, -2]}, {"shape": [-2, -2], "data_offsets": [-8, 8]}, {"shape": "44"},
    {"shape": [4.0]}, {"shape": [True, 4]}, {"shape": {"4": 1}}, {"data_offsets": [0]}, {"data_offsets": [0, 16, 32]},
    {"data_offsets": "01"},
]  # fmt: skip


@pytest.mark.parametrize("flags", [[], ["-O"], ["-OO"]])
def test_damaged_headers_are_refused_with_assertions_switched_off_too(tmp_path, flags):
    sound = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    for i, change in enumerate([{}, *MALFORMED]):
        header = json.dumps({"a": sound | change}).encode()
        (tmp_path / f"{i:02}").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    code = """if True:
        import pathlib, sys
        from bagel_rt.files.safetensors_file import read_header
        from bagel_rt.errors import CheckpointError
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            try:
                print("taken", read_header(path)["a"].shape)
            except CheckpointError as error:
                print("refused", "tensor 'a'" in str(error))
    """
    done = subprocess.run([sys.executable, *flags, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["taken (4,)"] + ["refused True"] * len(MALFORMED), done.stderr

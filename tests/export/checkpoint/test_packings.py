"""Checkpoints as people pack them: the numbers of every form, that its scales are applied, and its bad twins."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from packings import Packed, folder_of, fp8, gptq, nf4, weights, write_gguf
from safetensors.torch import save_file

from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.sources import Asked
from bagel_rt.errors import CheckpointError

WEIGHT = "language_model.model.layers.1.mlp_moe_gen.down_proj.weight"
MODULE = WEIGHT.removesuffix(".weight")
SCALED = {
    "fp8 e4m3, .scale_weight": lambda t: fp8(t, "e4m3", ".scale_weight", mark=True),
    "fp8 e5m2, .scale_weight": lambda t: fp8(t, "e5m2", ".scale_weight", mark=True),
    "fp8 e4m3, .weight_scale": lambda t: fp8(t, "e4m3", ".weight_scale"),
    "fp8 e4m3, .weight_scale of rows": lambda t: fp8(t, "e4m3", ".weight_scale", "rows"),
    "fp8 e4m3, .weight_scale_inv of blocks": lambda t: fp8(t, "e4m3", ".weight_scale_inv", "blocks"),
    "NF4": nf4,
    "NF4, nested": lambda t: nf4(t, nested=True),
    "NF4, blocks across rows": lambda t: nf4(t, block=256),
    "AutoRound, auto_gptq": gptq,
    "AutoRound, its own zero points": lambda t: gptq(t, "auto_round", symmetric=False),
    "AutoRound, auto_gptq, asymmetric": lambda t: gptq(t, symmetric=False),
    "GPTQ with an order of groups": lambda t: gptq(t, order=True),
    "AutoRound, 8 bits, the understanding expert alone": lambda t: gptq(t, bits=8, only="mlp."),
}
PLAIN = {kind: lambda t, kind=kind: fp8(t, kind) for kind in ("e4m3", "e5m2")}


def same_tensors(found, wanted, packed: dict[str, np.ndarray], exact: bool = False) -> None:
    """Packed tensors are the numbers that were worked out, all others the plain checkpoint's."""
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        got = found[name].array()
        if name in packed:
            np.testing.assert_array_equal(np.concatenate([*found[name].chunks(1000)]), got.reshape(-1))  # part by part
            np.testing.assert_allclose(got, packed[name].reshape(got.shape), rtol=0 if exact else 1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(got, tensor.array(), err_msg=name)


@pytest.fixture(scope="module")
def plain(golden_checkpoint):
    return open_checkpoint(golden_checkpoint).tensors


@pytest.fixture(scope="module")
def packed(golden_checkpoint):
    """A form's content, made once."""
    tensors, made = weights(golden_checkpoint), {}

    def of(form: str) -> Packed:
        made.setdefault(form, None) or made.update({form: (SCALED | PLAIN)[form](tensors)})
        got = made[form]
        return Packed(dict(got.stored), got.means, got.scales, got.config)

    return of


def refused(ckpt, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(ckpt)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


@pytest.mark.parametrize("form", SCALED)
def test_packed_weights_are_the_numbers_that_the_form_stands_for(form, packed, plain, golden_checkpoint, tmp_path):
    written = packed(form)
    found = open_checkpoint(folder_of(golden_checkpoint, tmp_path / "a", written)).tensors
    assert len(written.means) >= 9
    same_tensors(found, plain, written.means)
    tensor = found[WEIGHT]
    assert all(np.array_equal(np.concatenate([*tensor.chunks(n)]), tensor.array().reshape(-1)) for n in (1, 1000, 5000))
    np.testing.assert_array_equal(tensor.picked([3, 1]), tensor.array()[[3, 1]])
    np.testing.assert_array_equal(tensor.columns(slice(2, 9)), tensor.array()[:, 2:9])


@pytest.mark.parametrize("kind", PLAIN)
def test_a_plain_cast_to_fp8_is_read_as_it_is(kind, packed, plain, golden_checkpoint, tmp_path):
    written = packed(kind)
    found = open_checkpoint(folder_of(golden_checkpoint, tmp_path / "a", written)).tensors
    conv = {name: tensor for name, tensor in written.means.items() if name in found and tensor.ndim < 4}
    assert {name for name in conv if found[name].stored.dtype != "BF16"} == set()
    same_tensors({name: found[name] for name in conv}, {name: plain[name] for name in conv}, conv, exact=True)


@pytest.mark.parametrize("form", [form for form in SCALED if "alone" not in form])
def test_a_planted_scale_is_applied(form, packed, golden_checkpoint, tmp_path):
    """The trap of files that load and draw almost right: a scale three times as large must be seen in the weight."""
    written = packed(form)
    key = written.scales[WEIGHT]
    plain = open_checkpoint(folder_of(golden_checkpoint, tmp_path / "plain", written)).tensors[WEIGHT].array()
    written.stored[key] = written.stored[key] * 3
    found = open_checkpoint(folder_of(golden_checkpoint, tmp_path / "a", written)).tensors[WEIGHT].array()
    before = written.means[WEIGHT]
    if "nested" in form:  # there the scale is of the scales' distances from their mean
        assert np.linalg.norm(found - plain) > 0.1 * np.linalg.norm(plain)
        np.testing.assert_allclose(plain, before, rtol=1e-3, atol=1e-6)
    else:
        np.testing.assert_allclose(found, 3 * before, rtol=1e-3, atol=1e-6)


BAD = [
    ("fp8 e4m3, .scale_weight", f"{MODULE}.scale_weight", None, [WEIGHT, "no scale beside it", "others have one"]),
    ("fp8 e4m3, .weight_scale of rows", f"{MODULE}.weight_scale", torch.ones(7), ["shape [7]", "[64, 1]", "[64, 128]"]),
    ("fp8 e4m3, .weight_scale_inv of blocks", f"{MODULE}.weight_scale_inv", torch.ones(2, 3), ["shape [2, 3]"]),
    ("fp8 e4m3, .weight_scale", f"{MODULE}.scale_weight", torch.ones(()), ["two scales"]),
    ("fp8 e4m3, .weight_scale", f"{MODULE}.weight_scal", torch.ones(()), [".weight_scal'", "not part of the model"]),
    ("fp8 e4m3, .weight_scale", WEIGHT, None, ["scales", WEIGHT, "is not there"]),
    ("fp8 e4m3, .weight_scale", f"{MODULE}.weight_scale_2", torch.ones(()), ["NVFP4", "bf16"]),
    ("NF4", f"{WEIGHT}.absmax", None, ["no scales beside it", f"{WEIGHT}.absmax"]),
    ("NF4", f"{WEIGHT}.absmax", torch.ones(5), ["shape [5]", "128 numbers are expected"]),
    ("NF4", f"{WEIGHT}.quant_map", torch.ones(4), ["shape [4]", "16 numbers"]),
    ("NF4", f"{WEIGHT}.quant_state.bitsandbytes__nf4", None, ["which says how, is missing"]),
    ("NF4", WEIGHT, None, ["has no weight beside it"]),
    ("NF4", WEIGHT, torch.zeros(10, 1, dtype=torch.uint8), ["shape [10, 1]", "4096 bytes"]),
    ("NF4, nested", f"{WEIGHT}.nested_absmax", None, ["no scales of its scales"]),
    ("NF4", f"{WEIGHT}.absmaxx", torch.ones(2), ["absmaxx", "not part of the model"]),
    ("AutoRound, auto_gptq", f"{MODULE}.scales", None, ["no scales beside it"]),
    ("AutoRound, auto_gptq", f"{MODULE}.qzeros", None, ["no zero points beside it"]),
    ("AutoRound, auto_gptq", f"{MODULE}.scales", torch.ones(3, 64), ["shape [3, 64]", "[4, 64] for groups of 32"]),
    ("AutoRound, auto_gptq", f"{MODULE}.qweight", None, ["has no weight beside it"]),
    ("AutoRound, auto_gptq", WEIGHT, torch.ones(64, 128), ["there twice, plain and packed"]),
    ("NF4", f"{MODULE}.SCB", torch.ones(64), ["8-bit form", "--precision int8"]),
    ("NF4", "language_model.model.layers.0.encoded_exponent", torch.ones(1), ["DFloat11", "the very same numbers"]),
    ("NF4", "vit_model.blocks.0.attn.qkv.weight", torch.ones(1), ["Lance", "checkpoint of BAGEL itself"]),
    ("NF4", "llm2vae.weight", torch.ones(48, 64), ["Lance", "Wan 2.2"]),
    ("NF4", f"{MODULE}.weight_packed", torch.ones(1), ["compressed-tensors"]),
]


@pytest.mark.parametrize("form, key, value, words", BAD)
def test_the_bad_twin_of_a_form_is_refused_by_name(form, key, value, words, packed, golden_checkpoint, tmp_path):
    written = packed(form)
    assert value is not None or key in written.stored
    written.stored = {k: t for k, t in written.stored.items() if k != key} | ({} if value is None else {key: value})
    refused(folder_of(golden_checkpoint, tmp_path / "a", written), "ema.safetensors", *words)


@pytest.mark.parametrize("form", ["fp8 e4m3, .scale_weight", "NF4", "AutoRound, auto_gptq"])
def test_a_packed_file_that_is_cut_off_is_named(form, packed, golden_checkpoint, tmp_path):
    folder = folder_of(golden_checkpoint, tmp_path / "a", packed(form))
    os.truncate(folder / "ema.safetensors", os.path.getsize(folder / "ema.safetensors") - 1000)
    refused(folder, "ema.safetensors", "cut off")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"packing_format": "auto_round"}, ["zero point 7", "8 is expected", "packing_format"]),
        ({"packing_format": "auto_round:auto_awq"}, ["auto_awq", "bf16"]),
        ({"quant_method": "hqq"}, ["'hqq'", "auto-round"]),
        ({"bits": 3}, ["bits 3", "2, 4, 8"]),
        ({"group_size": 64}, ["groups of 64"]),
    ],
)
def test_a_config_that_is_not_that_of_the_packed_weights_is_refused(change, words, packed, golden_checkpoint, tmp_path):
    written = packed("AutoRound, auto_gptq")
    written.config = {**(written.config or {}), **change}
    refused(folder_of(golden_checkpoint, tmp_path / "a", written), *words)


def test_packed_weights_without_the_config_that_says_how_are_refused(packed, golden_checkpoint, tmp_path):
    written = packed("AutoRound, auto_gptq")
    written.config = None
    refused(folder_of(golden_checkpoint, tmp_path / "a", written), "no 'quantization_config'", "config.json")


@pytest.mark.parametrize(
    "note, words", [(b'{"format": "float8_e4m3fn"}', None), (b'{"format": "nvfp4"}', "'nvfp4'"), (b"{", "None")]
)
def test_comfyuis_note_on_a_module_is_believed(note, words, packed, golden_checkpoint, tmp_path):
    written = packed("fp8 e4m3, .weight_scale")
    written.stored[f"{MODULE}.comfy_quant"] = torch.frombuffer(bytearray(note), dtype=torch.uint8)
    folder = folder_of(golden_checkpoint, tmp_path / "a", written)
    if words is None:
        np.testing.assert_allclose(open_checkpoint(folder).tensors[WEIGHT].array(), written.means[WEIGHT], rtol=1e-6)
    else:
        refused(folder, ".comfy_quant", words)


# GGUF


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_a_gguf_file_over_a_base_is_the_checkpoint(kind, plain, golden_checkpoint, tmp_path):
    path = tmp_path / f"bagel-{kind}.gguf"
    means = write_gguf(path, weights(golden_checkpoint), kind)
    for ckpt in (path, tmp_path):
        found = open_checkpoint(Asked(ckpt, base=golden_checkpoint)).tensors
        same_tensors(found, plain, {name: m for name, m in means.items() if m.ndim == 2 and "patch_emb" not in name})


@pytest.fixture
def gguf_file(golden_checkpoint, tmp_path) -> Path:
    write_gguf(tmp_path / "bagel.gguf", weights(golden_checkpoint), "Q8_0")
    return tmp_path / "bagel.gguf"


def test_a_gguf_file_that_is_cut_off_or_none_is_named(gguf_file, golden_checkpoint):
    os.truncate(gguf_file, os.path.getsize(gguf_file) - 1000)
    refused(Asked(gguf_file, base=golden_checkpoint), "bagel.gguf", "not a GGUF file, or cut off")
    gguf_file.write_bytes(b"no such thing, but as long as a header has to be")
    refused(Asked(gguf_file, base=golden_checkpoint), "bagel.gguf", "not a GGUF file")


def test_a_gguf_file_without_a_base_says_that_it_needs_one(gguf_file):
    refused(gguf_file, "llm_config.json: file not found", "with --base")


def test_another_model_is_called_by_its_name_even_without_configs(tmp_path):
    save_file({"llm2vae.weight": torch.ones(48, 64)}, tmp_path / "model.safetensors")
    refused(tmp_path, "Lance", "use a checkpoint of BAGEL itself")


def test_a_gguf_file_with_a_foreign_name_is_refused(golden_checkpoint, tmp_path):
    write_gguf(tmp_path / "a.gguf", {"blk.0.attn_q.weight": torch.ones(4, 32)}, "Q8_0")
    refused(Asked(tmp_path / "a.gguf", base=golden_checkpoint), "a.gguf", "'blk.0.attn_q.weight'", "not part of")


def test_the_gguf_error_names_the_extra(gguf_file, golden_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    refused(Asked(gguf_file, base=golden_checkpoint), "pip install 'bagel-rt[gguf]'")


def test_a_gguf_files_planted_scale_is_applied(golden_checkpoint, gguf_file):
    """A block of Q8_0 is a float16 step and 32 bytes: the first block's step, doubled in the file."""
    from gguf import GGUFReader

    before = open_checkpoint(Asked(gguf_file, base=golden_checkpoint)).tensors[WEIGHT].array()
    place = next(t for t in GGUFReader(gguf_file).tensors if t.name == WEIGHT).data_offset
    content = bytearray(gguf_file.read_bytes())
    content[place : place + 2] = (2 * np.frombuffer(content[place : place + 2], np.float16)).tobytes()
    gguf_file.write_bytes(content)
    after = open_checkpoint(Asked(gguf_file, base=golden_checkpoint)).tensors[WEIGHT].array()
    np.testing.assert_array_equal(after[0, :32], 2 * before[0, :32])
    np.testing.assert_array_equal(after[1:], before[1:])


# ComfyUI's single file


def comfy(checkpoint: Path, **change) -> str:
    configs = {name: json.loads((checkpoint / name).read_text()) for name in ("llm_config.json", "vit_config.json")}
    return json.dumps({"format": "comfyui_bagel", "format_version": 1, "model_configs": configs, **change})


def alone(checkpoint: Path, folder: Path, **metadata: str) -> Path:
    folder.mkdir()
    save_file(weights(checkpoint), folder / "bagel-7b-mot.safetensors", metadata or None)
    return folder / "bagel-7b-mot.safetensors"


def base_without_configs(checkpoint: Path, folder: Path) -> Path:
    """The tokenizer and the VAE that a ComfyUI user has beside the nodes, and a model that must not be read."""
    folder.mkdir()
    for name in ("tokenizer.json", "ae.safetensors", "ema.safetensors", "preprocessor_config.json"):
        os.link(checkpoint / name, folder / name)
    other = {n: json.loads((checkpoint / n).read_text()) for n in ("llm_config.json", "vit_config.json")}
    (folder / "llm_config.json").write_text(json.dumps({**other["llm_config.json"], "rope_theta": 5.0}))
    (folder / "vit_config.json").write_text(json.dumps(other["vit_config.json"]))
    return folder


@pytest.mark.parametrize("where", ["header", "flat header", "beside"])
def test_a_comfyui_file_carries_its_configs(where, plain, golden_checkpoint, tmp_path):
    text = comfy(golden_checkpoint)
    flat = {k: v if isinstance(v, str) else json.dumps(v) for k, v in json.loads(text).items()}
    metadata = {"header": {"comfyui_bagel": text}, "flat header": flat, "beside": {}}[where]
    path = alone(golden_checkpoint, tmp_path / "comfy", **metadata)
    if where == "beside":
        beside = {"format": "comfyui_bagel_sidecar", "format_version": 1, "metadata": json.loads(text)}
        path.with_name(path.name + ".comfyui-bagel.json").write_text(json.dumps(beside))
    found = open_checkpoint(Asked(path, base=base_without_configs(golden_checkpoint, tmp_path / "base")))
    same_tensors(found.tensors, plain, {})
    assert found.config.llm.rope_theta == open_checkpoint(golden_checkpoint).config.llm.rope_theta != 5


@pytest.mark.parametrize(
    "change, words",
    [({"format_version": 2}, "'format_version' is 2"), ({"model_configs": {}}, "'model_configs.llm_config.json'")],
)
def test_a_comfyui_header_of_another_kind_is_refused(change, words, golden_checkpoint, tmp_path):
    path = alone(golden_checkpoint, tmp_path / "comfy", comfyui_bagel=comfy(golden_checkpoint, **change))
    refused(Asked(path, base=golden_checkpoint), path.name, words)

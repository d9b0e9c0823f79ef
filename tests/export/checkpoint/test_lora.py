"""LoRA adapters in peft's layout, merged while the weights are streamed; each kind with its bad twins."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import ALPHA, GATE, LAYER, QUERY, RANK, WEIGHTS, of, pair, write_adapter
from safetensors.torch import load_file, save_file

from bagel_export.artefact.export import export
from bagel_export.checkpoint.open import EMBEDDING, LM_HEAD, open_checkpoint
from bagel_export.checkpoint.synthetic import Shape, write_checkpoint
from bagel_rt.adapters.read import Lora
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.cli import main
from bagel_rt.errors import CheckpointError


@pytest.fixture
def adapter(tmp_path) -> Lora:
    """One attention and one generation matrix."""
    return write_adapter(tmp_path / "style", of(QUERY, *pair(64, 64, 1)) | of(GATE, *pair(128, 64, 2)))


@pytest.fixture
def merged(quick_checkpoint):
    """The named weight as an adapter leaves it, minus what the checkpoint holds."""

    def change(lora: Lora, module: str) -> np.ndarray:
        name = f"{module}.weight"
        return open_checkpoint(quick_checkpoint, lora=lora).tensors[name].array() - stored(quick_checkpoint, name)

    return change


def stored(checkpoint: Path, name: str) -> np.ndarray:
    return load_file(checkpoint / "ema.safetensors")[name].float().numpy()


def refused(checkpoint: Path, lora: Lora, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(checkpoint, lora=lora)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def product(outputs: int, inputs: int, seed: int, scale: float) -> np.ndarray:
    a, b = pair(outputs, inputs, seed)
    return scale * (b @ a).numpy()


def test_a_merged_weight_is_the_weight_plus_the_scaled_product_and_no_other_changes(quick_checkpoint, adapter, merged):
    np.testing.assert_allclose(merged(adapter, QUERY), product(64, 64, 1, ALPHA / RANK), atol=1e-5)
    np.testing.assert_allclose(merged(adapter, GATE), product(128, 64, 2, ALPHA / RANK), atol=1e-5)
    plain, changed = open_checkpoint(quick_checkpoint), open_checkpoint(quick_checkpoint, lora=adapter)
    for name in plain.tensors.keys() - {f"{QUERY}.weight", f"{GATE}.weight"}:
        np.testing.assert_array_equal(changed.tensors[name].array(), plain.tensors[name].array(), err_msg=name)


def test_the_scale_multiplies_the_update_and_zero_switches_it_off(adapter, merged):
    np.testing.assert_allclose(merged(Lora(adapter.folder, 0.25), QUERY), product(64, 64, 1, 2 / RANK), atol=1e-5)
    assert not merged(Lora(adapter.folder, 0.0), QUERY).any()


def test_pieces_of_any_size_give_the_same_values(quick_checkpoint, adapter):
    tensor = open_checkpoint(quick_checkpoint, lora=adapter).tensors[f"{GATE}.weight"]
    for limit in (1, 64, 100, 640, 1 << 20):
        pieces = list(tensor.chunks(limit))
        assert max(piece.size for piece in pieces) <= max(limit, 64)
        np.testing.assert_allclose(np.concatenate(pieces).reshape(tensor.shape), tensor.array(), rtol=1e-5, atol=1e-5)


def test_rank_stabilised_scaling_and_patterns_are_peft_s(tmp_path, merged):
    tensors = of(QUERY, *pair(64, 64, 1, rank=5)) | of(GATE, *pair(128, 64, 2))
    lora = write_adapter(
        tmp_path / "a", tensors, use_rslora=True, rank_pattern={"q_proj": 5}, alpha_pattern={r"mlp_moe_gen\..*": 2}
    )
    a, b = pair(64, 64, 1, rank=5)
    np.testing.assert_allclose(merged(lora, QUERY), ALPHA / math.sqrt(5) * (b @ a).numpy(), atol=1e-5)
    np.testing.assert_allclose(merged(lora, GATE), product(128, 64, 2, 2 / math.sqrt(RANK)), atol=1e-5)


@pytest.mark.parametrize(
    "root, module",
    [
        ("base_model.model.", QUERY),  # trained around the official classes
        ("base_model.model.model.", QUERY),  # around a NeMo model
        ("base_model.model.", QUERY.removeprefix("language_model.")),  # around the language model alone
    ],
)
def test_an_adapter_may_be_rooted_at_whatever_was_trained(tmp_path, merged, root, module):
    lora = write_adapter(tmp_path / "a", of(module, *pair(64, 64, 1), root=root))
    np.testing.assert_allclose(merged(lora, QUERY), product(64, 64, 1, ALPHA / RANK), atol=1e-5)


def test_a_named_adapter_and_bf16_are_read(tmp_path, merged):
    a, b = (t.bfloat16() for t in pair(64, 64, 1))
    root = f"base_model.model.{QUERY}"
    lora = write_adapter(tmp_path / "a", {f"{root}.lora_A.default.weight": a, f"{root}.lora_B.default.weight": b})
    np.testing.assert_allclose(merged(lora, QUERY), ALPHA / RANK * (b.float() @ a.float()).numpy(), atol=1e-4)


def test_an_embedding_update_is_transposed(quick_checkpoint, tmp_path):
    a, b = pair(64, 272, 3)
    root = f"base_model.model.{EMBEDDING.removesuffix('.weight')}"
    lora = write_adapter(tmp_path / "a", {f"{root}.lora_embedding_A": a, f"{root}.lora_embedding_B": b})
    change = open_checkpoint(quick_checkpoint, lora=lora).tensors[EMBEDDING].array()
    change -= stored(quick_checkpoint, EMBEDDING)
    np.testing.assert_allclose(change, ALPHA / RANK * (b @ a).T.numpy(), atol=1e-5)


def test_modules_saved_whole_replace_the_checkpoints_and_may_grow_the_vocabulary(quick_checkpoint, tmp_path):
    tables = {name: torch.randn(300, 64) for name in (EMBEDDING, LM_HEAD)}
    keys = {f"base_model.model.{name}": value for name, value in tables.items()}
    lora = write_adapter(
        tmp_path / "a", keys | of(QUERY, *pair(64, 64, 1)), modules_to_save=["embed_tokens", "lm_head"]
    )
    found = open_checkpoint(quick_checkpoint, lora=lora)
    assert found.config.llm.vocab_size == 300
    for name, table in tables.items():
        np.testing.assert_array_equal(found.tensors[name].array(), table.numpy())


def test_keys_that_are_off_or_chose_what_was_trained_change_nothing(adapter, merged):
    path = adapter.folder / "adapter_config.json"
    off = {"alora_invocation_tokens": None, "use_qalora": False, "arrow_config": {}, "of_tomorrow": [], "note": ""}
    trained = {
        "lora_dropout": 0.1,
        "qalora_group_size": 16,
        "megatron_core": "megatron.core",
        "init_lora_weights": "eva",
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | off | trained))
    np.testing.assert_allclose(merged(adapter, QUERY), product(64, 64, 1, ALPHA / RANK), atol=1e-5)


@pytest.mark.parametrize("name", ["", ".default"])
def test_what_peft_saves_below_an_adapted_layer_is_the_layer_itself(quick_checkpoint, tmp_path, name):
    head = LM_HEAD.removesuffix(".weight")
    table, bias = torch.randn(272, 64), torch.randn(64)
    a, b = pair(272, 64, 1)
    root = "base_model.model."
    tensors = {f"{root}{head}.lora_A{name}.weight": a, f"{root}{head}.lora_B{name}.weight": b}
    tensors |= {f"{root}{head}.base_layer.weight": table, f"{root}{QUERY}.base_layer.bias": bias}
    found = open_checkpoint(quick_checkpoint, lora=write_adapter(tmp_path / "a", tensors, bias="all")).tensors
    np.testing.assert_allclose(found[LM_HEAD].array(), table + ALPHA / RANK * (b @ a), atol=1e-4)
    np.testing.assert_array_equal(found[f"{QUERY}.bias"].array(), bias)


@pytest.mark.parametrize("bias, key", [("all", "{}.base_layer.bias"), ("lora_only", "{}.bias")])
def test_trained_biases_replace_the_checkpoints(quick_checkpoint, tmp_path, bias, key):
    value = torch.randn(64)
    tensors = of(QUERY, *pair(64, 64, 1)) | {f"base_model.model.{key.format(QUERY)}": value}
    lora = write_adapter(tmp_path / "a", tensors, bias=bias)
    np.testing.assert_array_equal(open_checkpoint(quick_checkpoint, lora=lora).tensors[f"{QUERY}.bias"].array(), value)


def test_modules_saved_whole_may_carry_the_adapter_s_name(quick_checkpoint, tmp_path):
    tables = {"connector.modules_to_save.style.fc1.weight": torch.randn(64, 32)}
    tables |= {"language_model.lm_head.modules_to_save.weight": torch.randn(272, 64)}
    lora = write_adapter(tmp_path / "a", {f"base_model.model.{key}": value for key, value in tables.items()})
    found = open_checkpoint(quick_checkpoint, lora=lora).tensors
    for name, table in zip(("connector.fc1.weight", LM_HEAD), tables.values(), strict=True):
        np.testing.assert_array_equal(found[name].array(), table.numpy())


def test_an_adapter_saved_from_a_wrapped_model_is_read(tmp_path, merged):
    lora = write_adapter(tmp_path / "a", of(f"_orig_mod.{QUERY}", *pair(64, 64, 1), root="module.base_model.model."))
    np.testing.assert_allclose(merged(lora, QUERY), product(64, 64, 1, ALPHA / RANK), atol=1e-5)


def test_export_merges_and_says_so(quick_checkpoint, adapter, tmp_path):
    given = ["export", "--ckpt", quick_checkpoint, "--task", "understand", "--out", tmp_path / "out"]
    assert main([*map(str, given), "--lora", str(adapter.folder), "--lora-scale", "0.5"]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest.name == "checkpoint+stylex0.5"
    assert {graph["parity"]["status"] for graph in manifest.graphs.values()} == {"verified"}
    written = load_file(tmp_path / "out" / "weights.safetensors")[f"{QUERY}.weight"].numpy()
    change = written - stored(quick_checkpoint, f"{QUERY}.weight")
    np.testing.assert_allclose(change, product(64, 64, 1, 0.5 * ALPHA / RANK), atol=1e-5)
    left_out = set(manifest.raw["unused_tensors"])
    assert {f"base_model.model.{GATE}.lora_{side}.weight" for side in "AB"} <= left_out


# Bad twins


@pytest.mark.parametrize(
    "config, words",
    [
        ({"peft_type": "IA3"}, "'peft_type' is 'IA3'; allowed: LORA"),
        ({"use_dora": True}, "has no lora_magnitude_vector beside it; adapter_config.json says DoRA"),
        ({"use_dora": "yes"}, "'use_dora' is 'yes'"),
        ({"fan_in_fan_out": True}, "'fan_in_fan_out'"),
        ({"trainable_token_indices": [1, 2]}, "merge it with peft"),
        ({"lora_bias": True}, "'lora_bias' is True"),
        ({"alora_invocation_tokens": [5]}, "'alora_invocation_tokens' is [5]"),
        ({"use_qalora": True}, "'use_qalora' is True"),
        ({"arrow_config": {"top_k": 1}}, "'arrow_config'"),
        ({"of_tomorrow": 1}, "'of_tomorrow' is 1"),
        ({"of_tomorrow": 0}, "'of_tomorrow' is 0"),
        ({"bias": "some"}, "'bias' is 'some'; allowed: none, all, lora_only"),
        ({"use_rslora": "yes"}, "'use_rslora' is 'yes'"),
        ({"init_lora_weights": "of_tomorrow"}, "'init_lora_weights' is 'of_tomorrow'"),
        ({"lora_alpha": 1e300}, "beyond float32"),
        ({"init_lora_weights": "pissa_niter_16"}, "'init_lora_weights' is 'pissa_niter_16'"),
        ({"r": 0}, "'r' is 0; a positive number"),
        ({"r": True}, "'r' is True"),
        ({"lora_alpha": "16"}, "'lora_alpha' is '16'"),
        ({"r": 4}, "rank 4"),
        ({"rank_pattern": {"q_proj": 4}}, "rank 4"),
        ({"rank_pattern": {"(": 4}}, "'rank_pattern' is malformed"),
        ({"alpha_pattern": ["q_proj"]}, "'alpha_pattern' is malformed"),
        ({"alpha_pattern": {"q_proj": "4"}}, "'alpha_pattern', pattern 'q_proj' is '4'; a positive number is expected"),
        ({"rank_pattern": {"q_proj": True}}, "'rank_pattern', pattern 'q_proj' is True; a positive number is expected"),
        ({"rank_pattern": {"((.|.)+)+[!?]": 4}}, "a pattern of 'rank_pattern' was still at '"),
    ],
)
def test_an_adapter_that_is_not_a_sum_of_products_is_refused(quick_checkpoint, adapter, config, words):
    path = adapter.folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    refused(quick_checkpoint, adapter, "adapter_", words)


@pytest.mark.parametrize(
    "tensors, words",
    [
        (of(f"{LAYER}.self_attn.qkv", *pair(64, 64, 1)), "matches nothing in the checkpoint"),
        (of(QUERY.replace(".0.", ".9."), *pair(64, 64, 1)), "layers.9"),
        (of(QUERY, *pair(64, 32, 1)), "makes an update of [64, 32]"),
        (of(QUERY, torch.ones(RANK, 64), torch.ones(64, RANK + 1)), "[64, 4]"),
        (of(QUERY, torch.ones(RANK, 64, 1, 1), torch.ones(64, RANK)), "a matrix is expected"),
        (of(QUERY, torch.ones(RANK, 64, dtype=torch.int8), torch.ones(64, RANK)), "I8"),
        ({f"base_model.model.{QUERY}.lora_A.weight": torch.ones(RANK, 64)}, "no lora_B beside it"),
        ({f"base_model.model.{QUERY}.lora_magnitude_vector": torch.ones(64)}, "no lora_A beside it"),
        ({"lora_te_text_model.alpha": torch.ones(1)}, "matches nothing"),
        ({}, "holds no tensors"),
    ],
)
def test_an_adapter_for_another_model_is_refused_by_its_key(quick_checkpoint, tmp_path, tensors, words):
    refused(quick_checkpoint, write_adapter(tmp_path / "a", tensors), WEIGHTS, words)


def named(adapter: str, module: str = QUERY) -> dict[str, torch.Tensor]:
    return {key.replace(".weight", f".{adapter}.weight"): value for key, value in of(module, *pair(64, 64, 1)).items()}


@pytest.mark.parametrize(
    "tensors",
    [
        named("one") | named("two"),
        named("one") | named("two", QUERY.replace("q_proj", "o_proj")),
        named("one") | {"base_model.model.language_model.lm_head.modules_to_save.two.weight": torch.zeros(272, 64)},
    ],
)
def test_two_adapters_in_one_file_are_told_apart(quick_checkpoint, tmp_path, tensors):
    refused(quick_checkpoint, write_adapter(tmp_path / "a", tensors), WEIGHTS, "holds two adapters", "one", "two")


def test_two_tensors_for_one_place_are_refused(quick_checkpoint, tmp_path):
    twice = of(QUERY, *pair(64, 64, 1)) | of(QUERY, *pair(64, 64, 2), root="")
    refused(quick_checkpoint, write_adapter(tmp_path / "a", twice), "is there twice")
    rooted = of(QUERY, *pair(64, 64, 1)) | of(QUERY, *pair(64, 64, 2), root="base_model.model.model.")
    refused(quick_checkpoint, write_adapter(tmp_path / "b", rooted), "second update of", QUERY)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_number_that_is_not_finite_is_found_in_the_adapter(quick_checkpoint, tmp_path, value, dtype):
    a, b = (t.to(dtype) for t in pair(64, 64, 1))
    b[5, 1] = value
    refused(quick_checkpoint, write_adapter(tmp_path / "a", of(QUERY, a, b)), f"{QUERY}.lora_B.weight", "not finite")
    whole = {f"base_model.model.{LM_HEAD}": torch.full((272, 64), value, dtype=dtype)}
    refused(quick_checkpoint, write_adapter(tmp_path / "b", whole), LM_HEAD, "not finite")


def test_a_folder_that_is_no_adapter_is_named(quick_checkpoint, adapter, tmp_path):
    refused(quick_checkpoint, Lora(tmp_path / "nowhere"), "nowhere: no such adapter folder")
    refused(quick_checkpoint, Lora(quick_checkpoint), "adapter_model.safetensors: file not found")
    refused(quick_checkpoint, Lora(adapter.folder, math.nan), "scale is nan")
    (adapter.folder / "adapter_config.json").write_text("{")
    refused(quick_checkpoint, adapter, "adapter_config.json", "not readable as JSON")
    (adapter.folder / "adapter_config.json").unlink()
    refused(quick_checkpoint, adapter, "adapter_config.json: file not found")
    (adapter.folder / WEIGHTS).rename(adapter.folder / "adapter_model.bin")
    refused(quick_checkpoint, adapter, WEIGHTS, "is a pickle")


def test_a_head_that_is_the_embedding_table_cannot_be_changed_alone(tmp_path):
    shape = Shape().with_llm(num_hidden_layers=1, tie_word_embeddings=True)
    checkpoint = write_checkpoint(tmp_path / "tied", shape)
    path = checkpoint / "ema.safetensors"
    save_file(load_file(path) | {LM_HEAD: torch.zeros(272, 64)}, path)
    lora = write_adapter(tmp_path / "a", of("language_model.lm_head", *pair(272, 64, 1)))
    refused(checkpoint, lora, LM_HEAD, "ties to the embedding table")


def test_a_refused_adapter_leaves_nothing_behind(quick_checkpoint, adapter, tmp_path, capsys):
    (tmp_path / "place").mkdir()
    given = ["export", "--ckpt", str(quick_checkpoint), "--out", str(tmp_path / "place" / "out")]
    assert main([*given, "--lora-scale", "2"]) == 2
    assert main([*given, "--lora", str(adapter.folder), "--lora-scale", "2", "--lora-scale", "1"]) == 2
    assert "given 2 times for 1 adapters" in capsys.readouterr().err
    assert main([*given, "--lora", str(tmp_path / "no")]) == 2
    assert "no such adapter folder" in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        list(export(quick_checkpoint, tmp_path / "place" / "out", lora=Lora(adapter.folder, math.inf)))
    assert list((tmp_path / "place").iterdir()) == []

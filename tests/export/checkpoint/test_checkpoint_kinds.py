"""Checkpoints that differ from the released one in form, shape or type, from their files to a picture and an answer.

Graphs are compared with the PyTorch reference by export itself; here every one must have been, and have passed.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from checkpoints import change_tensors
from safetensors.torch import load_file
from tokenizers import Tokenizer

import bagel_rt
from bagel_export.artefact.export import export
from bagel_export.checkpoint.open import EMBEDDING, PATCH_EMBEDDING, open_checkpoint
from bagel_export.checkpoint.synthetic import SMALL_LLM, SMALL_VIT, Shape, write_checkpoint
from bagel_export.checkpoint.tokenizer import load_tokenizer
from bagel_export.config import ViTConfig
from bagel_rt.artefact.contract import TASK_GRAPHS
from bagel_rt.artefact.manifest import ResizeRule
from bagel_rt.errors import InputError
from bagel_rt.inputs.images import patchify

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoint"
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
PATCH = 7
ODD = Shape(  # no two sizes alike, no powers of two
    llm=replace(
        SMALL_LLM,
        hidden_size=36,
        intermediate_size=50,
        num_hidden_layers=1,
        num_attention_heads=3,
        num_key_value_heads=1,
        vocab_size=277,
        rope_theta=12345.0,
    ),
    vit=ViTConfig(
        hidden_size=18,
        intermediate_size=22,
        num_hidden_layers=2,
        num_attention_heads=3,
        patch_size=PATCH,
        image_size=9 * PATCH,
    ),
    max_latent_size=5,
    vae_base_width=64,
    vae_transform=ResizeRule(80, 32, 16),
    vit_transform=ResizeRule(56, 28, PATCH),
    dtype=torch.bfloat16,
)
ONE_LAYER = {"num_hidden_layers": 1}
SMALL_VIT_2 = replace(SMALL_VIT, num_hidden_layers=2)
EXTRAS = {
    "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5),
    "language_model.model.layers.0.self_attn.q_proj._extra_state": torch.zeros(3, dtype=torch.uint8),
    "vit_model.vision_model.embeddings.position_ids": torch.arange(81)[None],
    "vit_model.vision_model.encoder.layers.1.layer_norm1.weight": torch.ones(18),
    "vit_model.vision_model.encoder.layers.1.mlp.fc1.weight": torch.zeros(22, 18),
    "vit_model.vision_model.head.probe": torch.zeros(1, 1, 18),
}


def as_conv2d(weight: torch.Tensor) -> torch.Tensor:
    """(out, patch * patch * 3), channel fastest -> the weight of a Conv2d (out, 3, patch, patch)."""
    return weight.reshape(-1, PATCH, PATCH, 3).permute(0, 3, 1, 2).contiguous()


def in_training_dress(tensors: dict) -> dict:
    """The same weights as training code may leave them: rooted, with Conv2d patches and with what nobody reads."""
    tensors = {**tensors, PATCH_EMBEDDING: as_conv2d(tensors[PATCH_EMBEDDING]), **EXTRAS}
    return {f"model.{name}": tensor for name, tensor in tensors.items()}


def exported(checkpoint: Path, out: Path, task: str = "full") -> dict:
    """Export with parity checks; returns the manifest."""
    for _ in export(checkpoint, out, task):
        pass
    manifest = json.loads((out / "bagel_rt.json").read_text())
    assert {name: entry["parity"]["status"] for name, entry in manifest["graphs"].items()} == dict.fromkeys(
        TASK_GRAPHS[task], "verified"
    )
    assert max(entry["parity"]["relative_l2"] for entry in manifest["graphs"].values()) < 2e-5
    return manifest


def weight_header(artefact: Path) -> tuple[int, dict]:
    with (artefact / "weights.safetensors").open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__")
    return 8 + length, header


def weights_read(artefact: Path, graph: str) -> set[str]:
    """Names of the tensors in the weight file that a graph reads, by their places."""
    start, header = weight_header(artefact)
    names = {start + entry["data_offsets"][0]: name for name, entry in header.items()}
    model = onnx.load(artefact / f"{graph}.onnx", load_external_data=False)
    places = [{e.key: e.value for e in t.external_data} for t in model.graph.initializer if t.external_data]
    return {names[int(place["offset"])] for place in places}


def draw_edit_and_ask(artefact: Path, height: int, width: int) -> None:
    """All three work, depend on what they are given, and stay finite."""
    with bagel_rt.load(artefact, backend="onnxruntime") as bagel:
        few = {"height": height, "width": width, "num_timesteps": 3, "seed": 7}
        drawn = [bagel.generate(prompt, **few) for prompt in ("a bagel", "a plate")]
        edited = bagel.edit(PICTURE, "a bagel", **few)
        answers = [bagel.ask("what is it?", images=PICTURE, max_tokens=5), bagel.ask("what is it?", max_tokens=5)]
        assert bagel.free_tokens == bagel_rt.api.CACHE_TOKENS
    for result in (*drawn, edited):
        assert result.image.size == (width, height)
        assert np.isfinite(result.latent).all()
    assert not np.allclose(drawn[0].latent, drawn[1].latent, atol=1e-6)
    assert not np.allclose(drawn[0].latent, edited.latent, atol=1e-6)
    assert all(1 <= len(answer.token_ids) <= 5 for answer in answers)


# The released form in other sizes, types and dress


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("plain") / "checkpoint", ODD)


@pytest.fixture(scope="module")
def dressed(plain, tmp_path_factory) -> Path:
    folder = shutil.copytree(plain, tmp_path_factory.mktemp("dressed") / "checkpoint")
    change_tensors(folder, in_training_dress)
    return folder


@pytest.fixture(scope="module")
def dressed_artefact(dressed, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("dressed") / "artefact"
    return out, exported(dressed, out)


def test_model_rooted_keys_conv2d_patches_and_leftovers_are_the_same_model(plain, dressed):
    wanted, found = open_checkpoint(plain), open_checkpoint(dressed)
    assert found.config == wanted.config
    assert list(found.tensors) == list(wanted.tensors)
    for name, tensor in wanted.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].array(), tensor.array(), err_msg=name)


def test_a_conv2d_patch_embedding_computes_on_patches_what_it_does_on_pixels(dressed):
    stored = load_file(dressed / "ema.safetensors")[f"model.{PATCH_EMBEDDING}"].float()
    assert stored.ndim == 4
    pixels = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 4 * PATCH, 5 * PATCH), np.float32))
    wanted = torch.nn.functional.conv2d(pixels[None], stored, stride=PATCH)[0].flatten(1).T.numpy()
    got = patchify(pixels.numpy(), PATCH) @ open_checkpoint(dressed).tensors[PATCH_EMBEDDING].array().T
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_odd_sizes_in_bf16_with_a_wider_vae_draw_edit_and_answer(dressed_artefact):
    artefact, manifest = dressed_artefact
    model = manifest["model"]
    assert (model["num_attention_heads"], model["num_key_value_heads"], model["head_dim"]) == (3, 1, 12)
    assert (model["vocab_size"], model["max_latent_size"], model["vit_grid"]) == (277, 5, 9)
    draw_edit_and_ask(artefact, 48, 80)
    with bagel_rt.load(artefact, backend="onnxruntime") as bagel, pytest.raises(InputError, match="width 80"):
        bagel.generate("x", height=48, width=96)  # beyond the table of 5 x 5


def test_tensors_nobody_reads_are_listed(dressed_artefact):
    artefact, manifest = dressed_artefact
    assert manifest["unused_tensors"] == sorted(EXTRAS)
    assert not set(EXTRAS) & set(weight_header(artefact)[1])


def test_the_weight_file_holds_the_checkpoints_bf16_values_in_float32(plain, dressed_artefact):
    stored, written = load_file(plain / "ema.safetensors"), load_file(dressed_artefact[0] / "weights.safetensors")
    assert set(stored) == {name for name in written if not name.startswith("vae.")}
    for name, tensor in stored.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(written[name], tensor.float()), name


def test_the_understand_task_leaves_generation_out_and_refuses_to_draw(dressed, tmp_path):
    manifest = exported(dressed, tmp_path / "artefact", "understand")
    assert manifest["task"] == "understand"
    names = set(weight_header(tmp_path / "artefact")[1])
    left_out = ("vae.", "vae2llm.", "llm2vae.", "time_embedder.", "latent_pos_embed.")
    assert not [name for name in names if "_moe_gen" in name or name.startswith(left_out)]
    listed = set(manifest["unused_tensors"])
    assert {"latent_pos_embed.pos_embed", "language_model.model.norm_moe_gen.weight", *EXTRAS} <= listed
    assert not listed & names
    with bagel_rt.load(tmp_path / "artefact", backend="onnxruntime") as bagel:
        for draw in (lambda: bagel.generate("x"), lambda: bagel.edit(PICTURE, "x")):
            with pytest.raises(InputError, match="--task full"):
                draw()
        assert len(bagel.ask("what is it?", images=PICTURE, max_tokens=4).token_ids) in range(1, 5)


def test_understanding_alone_answers_as_the_whole_model_does(dressed, dressed_artefact, tmp_path):
    for _ in export(dressed, tmp_path / "artefact", "understand", verify=False):
        pass
    answers = []
    for folder in (dressed_artefact[0], tmp_path / "artefact"):
        with bagel_rt.load(folder, backend="onnxruntime") as bagel:
            answers.append(bagel.ask("what is it?", images=PICTURE, max_tokens=12).token_ids)
    assert answers[0] == answers[1]


# The other decoder forms


@pytest.fixture(scope="module")
def moe_artefact(tmp_path_factory) -> tuple[Path, dict]:
    """Experts in the MLP alone; tied embeddings, stored with a head all the same; no QK norm; float16."""
    folder = tmp_path_factory.mktemp("moe")
    shape = replace(Shape(), vit=SMALL_VIT_2, dtype=torch.float16).with_llm(
        layer_module="Qwen2MoEDecoderLayer", tie_word_embeddings=True, qk_norm=False, **ONE_LAYER
    )
    write_checkpoint(folder / "checkpoint", shape)
    change_tensors(folder / "checkpoint", lambda t: {**t, "language_model.lm_head.weight": torch.zeros(272, 64)})
    return folder / "artefact", exported(folder / "checkpoint", folder / "artefact")


@pytest.mark.slow
def test_a_moe_decoder_with_tied_embeddings_and_no_qk_norm_draws_edits_and_answers(moe_artefact):
    draw_edit_and_ask(moe_artefact[0], 48, 64)


@pytest.mark.slow
def test_tied_embeddings_are_stored_once_and_read_by_the_head(moe_artefact):
    artefact, manifest = moe_artefact
    start, header = weight_header(artefact)
    assert "language_model.lm_head.weight" not in header
    assert manifest["unused_tensors"] == ["language_model.lm_head.weight"]
    assert EMBEDDING in weights_read(artefact, "lm_head")
    size = sum(4 * int(np.prod(entry["shape"])) for entry in header.values())
    assert (artefact / "weights.safetensors").stat().st_size == start + size


@pytest.mark.slow
def test_a_moe_decoder_reads_a_second_mlp_for_generation_and_nothing_else(moe_artefact):
    artefact, _ = moe_artefact
    second = {name for name in weights_read(artefact, "gen_step") if "_moe_gen" in name}
    assert second == {f"language_model.model.layers.0.mlp_moe_gen.{p}_proj.weight" for p in ("gate", "up", "down")}
    assert not [name for name in weights_read(artefact, "und_step") if "_moe_gen" in name]
    assert not [name for name in weight_header(artefact)[1] if "q_norm" in name or "k_norm" in name]


@pytest.fixture(scope="module")
def dense_artefact(tmp_path_factory) -> tuple[Path, dict]:
    """One expert for all rows; the recorded model's tokenizer, as vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("dense")
    shape = replace(Shape(), vit=SMALL_VIT_2).with_llm(layer_module="Qwen2DecoderLayer", vocab_size=384, **ONE_LAYER)
    checkpoint = write_checkpoint(folder / "checkpoint", shape)
    (checkpoint / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(GOLDEN / name, checkpoint / name)
    return folder / "artefact", exported(checkpoint, folder / "artefact")


def test_a_dense_decoder_with_a_slow_tokenizer_draws_edits_and_answers(dense_artefact):
    draw_edit_and_ask(dense_artefact[0], 48, 64)


def test_a_dense_decoder_has_one_set_of_layers_and_both_steps_read_it(dense_artefact):
    artefact, _ = dense_artefact
    assert not [name for name in weight_header(artefact)[1] if "layers.0" in name and "_moe_gen" in name]
    assert weights_read(artefact, "gen_step") == weights_read(artefact, "und_step") != set()


# Tokenizers

TEXTS = [
    "a bagel on a plate",
    "  two  spaces,\tand\n\n  lines \r\n end  ",
    "I'll say: it's 12,345.67 o'clock!",
    "Zoë’s naïve café - 日本語 и русский 🥯👩‍🍳",
    "e\u0301 and é are one letter",
    "<|im_start|>parsed<|im_end|> <|vision_start|><|vision_end|> <|endoftext|>",
    "<|im_start> is not",
    "",
]


def test_vocab_and_merges_give_the_ids_of_tokenizer_json(dense_artefact):
    artefact, manifest = dense_artefact
    wanted, got = (Tokenizer.from_file(str(f / "tokenizer.json")) for f in (GOLDEN, artefact))
    for text in TEXTS:
        ids = wanted.encode(text, add_special_tokens=False).ids
        assert got.encode(text, add_special_tokens=False).ids == ids
        assert got.decode(ids, skip_special_tokens=False) == wanted.decode(ids, skip_special_tokens=False)
    special = manifest["tokenizer"]["special_ids"]
    assert special == {name: wanted.token_to_id(f"<|{name}|>") for name in special}
    assert manifest["tokenizer"]["size"] == wanted.get_vocab_size()


def test_vocab_and_merges_alone_get_the_special_tokens_behind_the_last_id(tmp_path):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(GOLDEN / name, tmp_path / name)
    tokenizer, special = load_tokenizer(tmp_path, 384)
    size = len(json.loads((GOLDEN / "vocab.json").read_text()))
    assert len(set(special.values())) == 4
    assert all(size <= i < tokenizer.get_vocab_size() for i in special.values())
    wanted = Tokenizer.from_file(str(GOLDEN / "tokenizer.json"))
    for text in (t for t in TEXTS if "|>" not in t):
        assert tokenizer.encode(text, add_special_tokens=False).ids == wanted.encode(text, add_special_tokens=False).ids


def test_files_that_begin_with_a_byte_order_mark_are_read_as_those_without(quick_checkpoint, tmp_path):
    """Editors and PowerShell write such files."""
    shutil.copytree(quick_checkpoint, tmp_path / "marked")
    names = [path.name for path in quick_checkpoint.glob("*.json")]
    assert {"llm_config.json", "vit_config.json", "tokenizer.json"} <= set(names)
    for name in names:
        text = (quick_checkpoint / name).read_text(encoding="utf-8")
        (tmp_path / "marked" / name).write_text(text, encoding="utf-8-sig")
    plain, marked = open_checkpoint(quick_checkpoint), open_checkpoint(tmp_path / "marked")
    assert (marked.config, marked.vae_transform, marked.vit_transform) == (
        plain.config,
        plain.vae_transform,
        plain.vit_transform,
    )
    size = plain.config.llm.vocab_size
    got, wanted = (load_tokenizer(folder, size)[0] for folder in (tmp_path / "marked", quick_checkpoint))
    assert got.to_str() == wanted.to_str()


@pytest.mark.parametrize("marked", ["vocab.json", "merges.txt"])
def test_vocab_or_merges_with_a_byte_order_mark_give_the_same_tokenizer(tmp_path, marked):
    folders = [tmp_path / name for name in ("plain", "marked")]
    for folder in folders:
        folder.mkdir()
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(GOLDEN / name, folder / name)
    text = (GOLDEN / marked).read_text(encoding="utf-8")
    (folders[1] / marked).write_text(text, encoding="utf-8-sig")
    wanted, got = (load_tokenizer(folder, 384)[0].to_str() for folder in folders)
    assert got == wanted


def test_a_tokenizer_without_the_vision_markers_gets_them_once(tmp_path):
    stored = json.loads((GOLDEN / "tokenizer.json").read_text())
    stored["added_tokens"] = [t for t in stored["added_tokens"] if "vision" not in t["content"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    tokenizer, special = load_tokenizer(tmp_path, 384)
    assert special["im_start"] == 361
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path, 384)[1] == special

"""Precisions: their names, what each part of a model is stored in, calibration and smoothing."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generators import drain

import bagel_rt
from bagel_export.artefact.export import export
from bagel_export.checkpoint.open import EMBEDDING, LM_HEAD, open_checkpoint
from bagel_export.checkpoint.synthetic import Shape, write_checkpoint
from bagel_export.checkpoint.tokenizer import load_tokenizer
from bagel_export.quantization.calibration import calibrate, read_prompts
from bagel_export.quantization.precision import precision_named
from bagel_export.quantization.recipe import Treated, recipe_for, rounded_by_row, rounded_to_fp8
from bagel_export.quantization.smoothing import calibrated
from bagel_export.reference.streamed import Streamed
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.artefact.precision import PARTS, meaning, meaning_of
from bagel_rt.cli import main
from bagel_rt.errors import CheckpointError, ExportError
from bagel_rt.files.safetensors_file import read_header

GEN_UP = "language_model.model.layers.0.mlp_moe_gen.up_proj.weight"
GEN_DOWN = "language_model.model.layers.0.mlp_moe_gen.down_proj.weight"
GEN_NORM = "language_model.model.layers.0.input_layernorm_moe_gen.weight"


def ranges_of(checkpoint, **options):
    tokenizer, ids = load_tokenizer(checkpoint.tokenizer, checkpoint.config.llm.vocab_size)
    return drain(calibrate(checkpoint, tokenizer, ids, **options))


@pytest.mark.parametrize(
    "name, word",
    [("exact", "fp32"), ("balanced", "int8"), ("small", "int4")],
)
def test_a_profile_is_another_name_for_a_precision(name, word):
    assert precision_named(name).forms == precision_named(word).forms


def test_parts_can_be_given_forms_of_their_own():
    precision = precision_named("und=int4,gen=w8a8")
    assert precision.forms == {"und": "int4", "gen": "w8a8", "vit": "int8", "head": "int8", "vae": "int8"}
    assert precision_named("fp32,gen=int8").forms == dict.fromkeys(PARTS, "float") | {"gen": "int8"}
    assert precision.name == "und=int4,gen=w8a8"
    assert precision.arithmetic == "float32"


@pytest.mark.parametrize(
    "one, other",
    [
        ("balanced", "int8"),
        ("small", "int4"),
        ("exact", "fp32"),
        ("und=int8", "int8"),
        ("und=int4,gen=w8a8", " gen=w8a8, und=int4"),
        ("fp32,und=int8,gen=int8,vit=int8,head=int8,vae=int8", "int8"),
        ("fp8", "bf16,und=fp8,gen=fp8"),
    ],
)
def test_names_that_come_to_the_same_precision_meet_one_another(one, other):
    assert meaning(one).met_by(meaning(other))
    assert meaning(other).met_by(meaning(one))


@pytest.mark.parametrize(
    "asked, seen",
    [("int8", "int4"), ("fp32", "bf16"), ("int8", "fp32"), ("und=int4", "int8"), ("bf16,gen=int8", "fp32,gen=int8")],
)
def test_names_that_come_to_something_else_do_not(asked, seen):
    assert not meaning(asked).met_by(meaning(seen))
    assert not meaning(seen).met_by(meaning(asked))


def test_a_name_of_quantised_weights_asks_for_an_arithmetic_only_where_one_is_named():
    assert meaning("int8").met_by(meaning("int8", "bf16"))
    assert meaning("int8", "bf16").met_by(meaning("balanced", "bf16"))
    assert not meaning("int8", "bf16").met_by(meaning("int8"))
    nothing_quantised = ",".join(f"{part}=float" for part in PARTS)
    assert meaning(nothing_quantised).met_by(meaning("fp32"))
    assert not meaning(nothing_quantised).met_by(meaning("bf16"))


def test_an_artefact_of_a_float_word_is_known_with_and_without_recorded_forms(small_artefact):
    manifest = read_manifest(small_artefact)
    older = replace(manifest, raw={k: v for k, v in manifest.raw.items() if k != "weight_forms"})
    for one in (manifest, older):
        assert meaning("exact").met_by(meaning_of(one))
        assert not meaning("bf16").met_by(meaning_of(one))


@pytest.mark.parametrize(
    "name, arithmetic, computed, vae",
    [
        ("bf16", None, "bfloat16", "bfloat16"),
        ("fp16", None, "float16", "float32"),
        ("int8", "bf16", "bfloat16", "bfloat16"),
        ("int4", "fp16", "float16", "float32"),
        ("fp8", None, "bfloat16", "bfloat16"),
        ("fp8", "fp16", "float16", "float32"),
        ("bf16,und=int4", None, "bfloat16", "bfloat16"),
    ],
)
def test_arithmetic_follows_the_word_or_is_asked_for(name, arithmetic, computed, vae):
    precision = precision_named(name, arithmetic)
    assert (precision.arithmetic, precision.vae) == (computed, vae)


@pytest.mark.parametrize(
    "name, arithmetic, words",
    [
        ("int3", None, "precision 'int3' is unknown; allowed: fp32, bf16, fp16, int8, int4, w8a8, fp8, exact"),
        ("und=int3", None, "'und=int3'.* is unknown; und can be float, int8, int4, w8a8, fp8"),
        ("vae=int4", None, "vae can be float, int8"),
        ("gen=int8,int4", None, "'int4' in precision 'gen=int8,int4' is unknown"),
        ("eye=int8", None, "'eye=int8' is unknown"),
        ("", None, "precision '' is unknown"),
        ("int8", "int8", "arithmetic 'int8' is unknown; allowed: fp32, bf16, fp16"),
        ("bf16", "fp32", "precision 'bf16' computes in bf16"),
        ("fp8", "fp32", "fp8, which goes with arithmetic bf16 or fp16"),
    ],
)
def test_what_is_unknown_or_does_not_go_together_is_refused(tmp_path, name, arithmetic, words):
    with pytest.raises(ExportError, match=words):
        list(export(tmp_path / "nothing", tmp_path / "out", precision=name, arithmetic=arithmetic))
    assert list(tmp_path.iterdir()) == []


def remarks_of_export(folder: Path, precision: str, task: str = "full") -> list[str]:
    """What an export says before it looks for its checkpoint, which is not there."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(CheckpointError):
            list(export(folder / "nothing", folder / "out", task, precision=precision))
    return [str(one.message) for one in seen if one.category is bagel_rt.BagelWarning]


@pytest.mark.parametrize(
    "precision, words",
    [
        ("small", "precision 'small' keeps the generation expert and the attention that pictures are drawn over in 4"),
        ("gen=int4", "precision 'gen=int4' keeps the generation expert in 4 bits"),
        ("und=int4,gen=w8a8", "keeps the attention that pictures are drawn over in 4 bits"),
    ],
)
def test_four_bits_where_pictures_come_from_are_remarked_on(tmp_path, precision, words):
    [said] = remarks_of_export(tmp_path, precision)
    assert words in said
    assert "--precision balanced" in said


@pytest.mark.parametrize("precision", ["balanced", "exact", "int8", "w8a8", "und=int8,gen=w8a8,head=int4"])
def test_balanced_and_whatever_keeps_eight_bits_there_is_not(tmp_path, precision):
    assert remarks_of_export(tmp_path, precision) == []
    assert set(meaning("balanced").forms.values()) == {"int8"}
    assert remarks_of_export(tmp_path, "small", "understand") == []


def test_every_part_is_stored_as_the_precision_says(small_checkpoint):
    tensors = open_checkpoint(small_checkpoint).tensors
    recipe = recipe_for(tensors, precision_named("und=int4,gen=w8a8,vit=float,vae=int8"))
    forms = {name: t.layout.form if t.layout else "float" for name, t in recipe.items()}
    assert forms[GEN_DOWN] == "w8a8"
    assert forms[GEN_DOWN.replace("_moe_gen", "")] == "int4"
    assert forms[LM_HEAD] == "int8"
    assert forms["vae.decoder.conv_in.weight"] == "conv8"
    assert {forms[n] for n in forms if n.startswith(("vit_model.", "connector.", "llm2vae", "vae2llm"))} == {"float"}
    assert forms[EMBEDDING] == forms[GEN_NORM] == "float"


def test_sixteen_bit_scales_and_float_parts_go_with_sixteen_bit_arithmetic(small_checkpoint, tmp_path):
    for _ in export(small_checkpoint, tmp_path / "out", precision="int8", arithmetic="bf16", verify=False):
        pass
    header = read_header(tmp_path / "out" / "weights.safetensors")
    assert header[GEN_DOWN].dtype == "I8"
    assert header[GEN_DOWN + ".scale"].dtype == header[GEN_NORM].dtype == "BF16"
    assert read_manifest(tmp_path / "out").arithmetic == "bfloat16"


@pytest.fixture(scope="module")
def loud_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint with outliers as large models have them: a few channels of what is multiplied are many times the
    others, and the weights that multiply them are small."""
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint(tmp_path_factory.mktemp("loud") / "checkpoint")
    tensors = load_file(folder / "ema.safetensors")
    for name, tensor in tensors.items():
        if not name.startswith("language_model.model.layers"):
            continue
        if "layernorm" in name:
            tensor[3] *= 60
            tensor[17] *= 40
        elif any(part in name for part in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")) and tensor.ndim == 2:
            tensor[:, 3] /= 60
            tensor[:, 17] /= 40
        if "up_proj" in name:
            tensor[5] *= 50
        elif "down_proj" in name:
            tensor[:, 5] /= 50
    save_file(tensors, folder / "ema.safetensors")
    return folder


def generation_error(checkpoint, precision, ranges) -> float:
    """Relative L2 of the generation expert's first layer's rows from the exact ones."""
    recipe = recipe_for(checkpoint.tensors, precision)
    if ranges is not None:
        recipe = calibrated(recipe, checkpoint.tensors, ranges, checkpoint.config.llm.num_hidden_layers)
    model, random = checkpoint.meta_model(), torch.Generator().manual_seed(0)
    rows = torch.randn(32, checkpoint.config.llm.hidden_size, generator=random)
    layer = model.language_model.model.layers[0]
    kept = {name: Treated(source, recipe[name]) for name, source in checkpoint.tensors.items()}
    rounding = {name: t.rounding for name, t in kept.items() if t.rounding}

    def run(tensors, rounding):
        with torch.no_grad(), Streamed(model, tensors, rounding):
            return layer._finish(rows, rows.repeat(1, 4)[:, : layer.self_attn.heads * layer.self_attn.head_dim], True)

    exact = run(checkpoint.tensors, {})
    return float((run(kept, rounding) - exact).norm() / (exact - rows).norm())


def test_smoothing_makes_outliers_cheap(loud_checkpoint):
    checkpoint = open_checkpoint(loud_checkpoint)
    ranges, precision = ranges_of(checkpoint), precision_named("w8a8")
    assert generation_error(checkpoint, precision, ranges) < 0.6 * generation_error(checkpoint, precision, None)


def test_a_calibration_of_unlike_rows_costs_next_to_nothing(small_checkpoint):
    checkpoint = open_checkpoint(small_checkpoint)
    ranges, precision = ranges_of(checkpoint), precision_named("w8a8")
    assert generation_error(checkpoint, precision, ranges) < 1.25 * generation_error(checkpoint, precision, None)


def test_only_inputs_that_stand_out_are_smoothed(loud_checkpoint):
    checkpoint = open_checkpoint(loud_checkpoint)
    plain = recipe_for(checkpoint.tensors, precision_named("w8a8"))
    factor = calibrated(plain, checkpoint.tensors, ranges_of(checkpoint), 2)[GEN_UP].columns
    assert factor is not None
    assert set(np.argsort(factor)[-2:]) == {3, 17}
    assert float(factor.min()) == float(np.median(factor)) == 1


def test_smoothing_alone_changes_no_product(loud_checkpoint):
    checkpoint = open_checkpoint(loud_checkpoint)
    precision, ranges = precision_named("w8a8"), ranges_of(checkpoint)
    recipe = calibrated(recipe_for(checkpoint.tensors, precision), checkpoint.tensors, ranges, 2)
    unrounded = {name: replace(t, layout=None, rotated=0) for name, t in recipe.items()}
    weight = lambda name: torch.from_numpy(Treated(checkpoint.tensors[name], unrounded[name]).array())  # noqa: E731
    plain = lambda name: torch.from_numpy(checkpoint.tensors[name].array())  # noqa: E731
    x = torch.randn(5, checkpoint.config.llm.hidden_size, generator=torch.Generator().manual_seed(1))
    for norm, reader in (
        (GEN_NORM, "language_model.model.layers.0.self_attn.k_proj_moe_gen.weight"),
        (GEN_NORM.replace("input", "post_attention"), GEN_UP),
    ):
        assert recipe[norm].rows is not None
        smooth, usual = (x * weight(norm)) @ weight(reader).T, (x * plain(norm)) @ plain(reader).T
        if reader == GEN_UP:  # what leaves it is divided for the next weight
            smooth = smooth @ weight(GEN_DOWN).T
            usual = usual @ plain(GEN_DOWN).T
        torch.testing.assert_close(smooth, usual, rtol=2e-4, atol=2e-4 * float(usual.abs().max()))


@pytest.mark.parametrize("module", ["Qwen2MoEDecoderLayer", "Qwen2DecoderLayer"])
@pytest.mark.parametrize("precision", ["w8a8", "gen=w8a8"])
def test_forms_that_share_tensors_between_experts_are_smoothed_consistently(tmp_path, module, precision):
    write_checkpoint(tmp_path / "checkpoint", Shape().with_llm(num_hidden_layers=1, layer_module=module))
    for _ in export(tmp_path / "checkpoint", tmp_path / "out", precision=precision):
        pass
    graphs = json.loads((tmp_path / "out" / "bagel_rt.json").read_text())["graphs"]
    assert {g["parity"]["status"] for g in graphs.values()} == {"verified"}


def test_a_calibration_sees_what_every_rounded_weight_multiplies(small_checkpoint):
    checkpoint = open_checkpoint(small_checkpoint)
    ranges = ranges_of(checkpoint)
    recipe = recipe_for(checkpoint.tensors, precision_named("fp8,vit=fp8,head=fp8"))
    rounded = {name for name, t in recipe.items() if t.layout and not name.startswith("vae.")}
    assert rounded <= ranges.keys()
    assert all(ranges[name].rows >= 8 and ranges[name].largest.max() > 0 for name in rounded)


def test_prompts_of_ones_own_change_what_is_seen(small_checkpoint, tmp_path):
    checkpoint = open_checkpoint(small_checkpoint)
    name = GEN_DOWN.replace("_moe_gen", "")
    usual, own = ranges_of(checkpoint)[name], ranges_of(checkpoint, prompts=("another prompt",))[name]
    assert own.rows < usual.rows
    assert not np.allclose(own.mean_square, usual.mean_square)


def test_a_weight_that_fp8_takes_knows_its_reach(small_checkpoint):
    checkpoint = open_checkpoint(small_checkpoint)
    ranges = ranges_of(checkpoint)
    recipe = calibrated(recipe_for(checkpoint.tensors, precision_named("fp8")), checkpoint.tensors, ranges, 2)
    assert recipe[GEN_DOWN].reach == pytest.approx(float(ranges[GEN_DOWN].largest.max()))


def test_fp8_graphs_compute_what_the_reference_does_with_the_rounded_numbers(small_checkpoint, tmp_path):
    for _ in export(small_checkpoint, tmp_path / "out", precision="fp8", arithmetic="fp16"):
        pass
    graphs = json.loads((tmp_path / "out" / "bagel_rt.json").read_text())["graphs"]
    assert {name: g["parity"]["status"] for name, g in graphs.items()} == dict.fromkeys(graphs, "verified")
    assert read_header(tmp_path / "out" / "weights.safetensors")[GEN_DOWN].dtype == "F8_E4M3"


def test_rows_are_rounded_in_the_steps_that_were_promised():
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [100], [0.01], [0]])
    step = x.abs().amax(1, keepdim=True) / 127
    assert bool(((rounded_by_row(x) - x).abs() <= step / 2 + 1e-12).all())
    assert rounded_to_fp8(torch.tensor([1000.0, 3.0]), reach=6.0).tolist() == [6.0, 3.0]


def test_the_token_table_of_a_quantised_artefact_is_kept_as_the_checkpoint_has_it(tmp_path):
    write_checkpoint(tmp_path / "checkpoint", Shape(dtype=torch.bfloat16))
    for precision, kept in (("int8", "bfloat16"), ("fp32", "float32")):
        for _ in export(tmp_path / "checkpoint", tmp_path / precision, precision=precision, verify=False):
            pass
        assert read_manifest(tmp_path / precision).embeddings.dtype == kept
    with bagel_rt.load(tmp_path / "int8") as bagel:
        assert bagel.ask("hello", max_tokens=2).text is not None


def test_prompts_to_calibrate_on_come_from_a_file_with_one_a_line(quick_checkpoint, tmp_path, capsys):
    empty, missing, good = tmp_path / "empty.txt", tmp_path / "missing.txt", tmp_path / "good.txt"
    empty.write_text("\n\n")
    good.write_text("a cat\n\na dog\n", encoding="utf-8-sig")  # as Notepad writes it
    assert read_prompts(good) == ("a cat", "a dog")
    command = ["export", "--ckpt", str(quick_checkpoint), "--task", "understand", "--precision", "small", "--out"]
    for file, words in ((empty, "holds no prompt"), (missing, "file not found")):
        assert main([*command, str(tmp_path / "out"), "--calibrate", str(file)]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, str(tmp_path / "out"), "--calibrate", str(good), "--no-verify"]) == 0
    assert read_manifest(tmp_path / "out").precision == "small"

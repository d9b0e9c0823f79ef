"""The packed training forward against the recorded one, and loading checkpoints for training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_cases import distance, read
from safetensors.torch import load_file, save_file

import bagel_rt
from bagel_export import BagelConfig, BagelForUnifiedMultimodal, BagelModel
from bagel_export.checkpoint.synthetic import SMALL_LLM, SMALL_VIT
from bagel_export.reference import masks
from bagel_export.reference.language import attend
from bagel_export.reference.masks import from_splits, packed_attention

LISTS = ("sample_lens", "split_lens", "attn_modes")


def forward_inputs(case) -> dict:
    inputs = {}
    for key, value in case.arrays.items():
        name = key.removeprefix("in.")
        if not key.startswith("in.") or name == "padded_images":
            continue
        if name.startswith("nested_attention_masks"):
            inputs.setdefault("nested_attention_masks", []).append(torch.from_numpy(value))
        elif name in LISTS:
            inputs[name] = value.tolist()
        else:
            inputs[name] = int(value) if value.ndim == 0 else torch.from_numpy(value)
    return inputs


@pytest.fixture
def recorded(golden_checkpoint, monkeypatch):
    """A recorded training case: the model, its inputs, and torch's noise replaced by the recorded one."""

    def prepare(name: str):
        case = read(name)
        shift = case.asked["timestep_shift"]
        model = BagelForUnifiedMultimodal.from_pretrained(golden_checkpoint, strict=True, timestep_shift=shift)
        noise = torch.from_numpy(case.arrays["noise1.train_noise"])
        monkeypatch.setattr(torch, "randn_like", lambda x: noise.to(x))
        return model, forward_inputs(case), case

    return prepare


@pytest.mark.parametrize("name", ["train_nested", "train_flex"])
def test_the_packed_forward_gives_the_recorded_losses_and_hidden_state(recorded, monkeypatch, name):
    model, inputs, case = recorded(name)
    seen = {}
    original = model.last_hidden_state
    monkeypatch.setattr(model, "last_hidden_state", lambda *a: seen.setdefault("hidden", original(*a)))
    with torch.no_grad():
        losses = model(**inputs)
    assert distance(losses["mse"], case.arrays["out.mse"]) < 1e-5
    assert distance(losses["ce"], case.arrays["out.ce"]) < 1e-5
    assert distance(seen["hidden"], case.arrays["out.last_hidden_state"]) < 1e-5


def test_nested_masks_and_splits_describe_the_same_attention():
    nested = [torch.from_numpy(read("train_nested").arrays[f"in.nested_attention_masks.{i}"]) == 0 for i in range(3)]
    flex = read("train_flex").arrays
    lens = flex["in.sample_lens"].tolist()[:3]
    splits = from_splits(lens, flex["in.split_lens"].tolist(), flex["in.attn_modes"].tolist())
    assert all(torch.equal(a, b) for a, b in zip(nested, splits, strict=True))


def test_splits_that_do_not_fill_their_sample_are_refused():
    with pytest.raises(ValueError, match="do not add up"):
        from_splits([5], [3], ["causal"])
    with pytest.raises(ValueError, match="'diagonal' is unknown"):
        from_splits([3], [3], ["diagonal"])
    with pytest.raises(ValueError, match="the samples cover 3 tokens, the sequence has 4"):
        packed_attention(from_splits([3], [3], ["causal"]), torch.arange(4), torch.arange(0), 4)


@pytest.mark.parametrize("short", [0, 256])
def test_attention_over_packed_samples_is_attention_over_each_alone(monkeypatch, short):
    monkeypatch.setattr(masks, "SHORT", short)
    splits = ([2, 3], [3, 2], [3, 2], [4])
    modes = (["causal", "full"], ["causal", "noise"], ["full", "causal"], ["causal"])
    alone = [from_splits([sum(n)], n, m)[0] for n, m in zip(splits, modes, strict=True)]
    total = sum(len(m) for m in alone)
    und, gen = torch.arange(0, total, 2), torch.arange(1, total, 2)
    q, k, v = torch.randn(total, 4, 8), torch.randn(total, 2, 8), torch.randn(total, 2, 8)
    take = lambda rows: (q[rows], k[rows], v[rows])  # noqa: E731
    to_und, to_gen = packed_attention(alone, und, gen, total)(take(und), take(gen))
    wanted, start = [], 0
    for mask in alone:
        rows = slice(start, start + len(mask))
        wanted.append(attend(q[rows], k[rows], v[rows], mask))
        start += len(mask)
    torch.testing.assert_close(to_und, torch.cat(wanted)[und])
    torch.testing.assert_close(to_gen, torch.cat(wanted)[gen])


def test_a_noise_split_is_seen_by_itself_alone_and_sees_what_came_before():
    (mask,) = from_splits([6], [2, 2, 2], ["causal", "noise", "full"])
    rows = ["100000", "110000", "111100", "111100", "110011", "110011"]
    assert mask.int().tolist() == [[int(c) for c in row] for row in rows]


def test_attention_that_nothing_defines_is_refused(recorded):
    model, inputs, _ = recorded("train_flex")
    del inputs["attn_modes"]
    with pytest.raises(ValueError, match="attention is not defined"):
        model(**inputs)


def test_bfloat16_weights_give_the_recorded_losses_to_bfloat16_precision(recorded):
    model, inputs, case = recorded("train_flex")
    low = {k: v.bfloat16() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad():
        losses = model.to(torch.bfloat16)(**low)
    assert losses["ce"].dtype == losses["mse"].dtype == torch.bfloat16
    assert distance(losses["ce"].float(), case.arrays["out.ce"]) < 0.05
    assert distance(losses["mse"].float(), case.arrays["out.mse"]) < 0.05


def test_every_trainable_weight_gets_a_gradient_and_a_step_lowers_the_loss(recorded):
    model, inputs, _ = recorded("train_flex")

    def loss() -> torch.Tensor:
        out = model(**inputs)
        return out["ce"].mean() + out["mse"].mean()

    before = loss()
    before.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    zero = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    assert zero == []
    assert not model.model.latent_pos_embed.pos_embed.requires_grad
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3).step()
    assert loss() < before


def tiny(form: str = "Qwen2MoTDecoderLayer", **values) -> BagelConfig:
    return BagelConfig(
        replace(SMALL_LLM, layer_module=form), SMALL_VIT, max_latent_size=8, vit_max_num_patch_per_side=16, **values
    )


def picture(first_row: int) -> dict:
    """A noisy 2 x 3 latent grid as the forward takes it, its tokens from `first_row` on."""
    rows = torch.arange(first_row, first_row + 6)
    return {
        "padded_latent": torch.randn(1, 16, 4, 6),
        "patchified_vae_latent_shapes": [(2, 3)],
        "packed_latent_position_ids": torch.tensor([0, 1, 2, 8, 9, 10]),
        "packed_vae_token_indexes": rows,
        "packed_timesteps": torch.randn(6),
        "mse_loss_indexes": rows,
    }


@pytest.mark.parametrize("form", ["Qwen2MoTDecoderLayer", "Qwen2MoEDecoderLayer", "Qwen2DecoderLayer"])
def test_each_decoder_form_trains_on_text_alone_and_on_text_with_a_picture(form):
    torch.manual_seed(0)
    model = BagelForUnifiedMultimodal(tiny(form))
    text = {
        "packed_text_ids": torch.arange(5),
        "packed_text_indexes": torch.arange(5),
        "ce_loss_indexes": torch.arange(4),
        "packed_label_ids": torch.arange(1, 5),
    }
    alone = model(
        5, sample_lens=[5], packed_position_ids=torch.arange(5), split_lens=[5], attn_modes=["causal"], **text
    )
    assert alone["mse"] is None
    assert alone["ce"].shape == (4,)
    both = model(
        11,
        sample_lens=[11],
        packed_position_ids=torch.tensor([0, 1, 2, 3, 4] + [5] * 6),
        split_lens=[5, 6],
        attn_modes=["causal", "noise"],
        **picture(5),
        **text,
    )
    assert both["mse"].shape == (6, 64)
    (both["mse"].mean() + both["ce"].mean()).backward()
    assert torch.allclose(alone["ce"], both["ce"], atol=1e-5)  # noise is invisible to the text before it


@pytest.mark.parametrize("form", ["Qwen2MoTDecoderLayer", "Qwen2MoEDecoderLayer", "Qwen2DecoderLayer"])
def test_a_picture_without_any_understanding_row_trains(form):
    torch.manual_seed(0)
    model = BagelForUnifiedMultimodal(tiny(form))
    torch.nn.init.normal_(model.model.llm2vae.weight)  # it starts at zero, which would stop the gradient
    none = torch.zeros(0, dtype=torch.long)
    out = model(6, none, none, [6], torch.zeros(6, dtype=torch.long), None, [6], ["noise"], **picture(0))
    assert out["ce"] is None
    assert out["mse"].shape == (6, 64)
    out["mse"].mean().backward()
    assert torch.isfinite(model.model.vae2llm.weight.grad).all()
    assert model.model.vae2llm.weight.grad.any()


def test_text_after_a_noisy_picture_does_not_see_it():
    torch.manual_seed(0)
    model = BagelForUnifiedMultimodal(tiny())

    def ce() -> torch.Tensor:
        """Text, a picture with new latents and new noise, text: the losses of the text."""
        text, at = torch.arange(5), torch.tensor([0, 1, 2, 9, 10])
        positions = torch.tensor([0, 1, 2, *[3] * 6, 3, 4])
        losses = {"ce_loss_indexes": at, "packed_label_ids": text}
        splits = ([3, 6, 2], ["causal", "noise", "causal"])
        return model(11, text, at, [11], positions, None, *splits, **picture(3), **losses)["ce"]

    assert torch.equal(ce(), ce())


def test_stage_one_keeps_the_understanding_keys_only(golden_checkpoint):
    one = BagelForUnifiedMultimodal.from_pretrained(golden_checkpoint, stage="stage1")
    two = BagelForUnifiedMultimodal.from_pretrained(golden_checkpoint, stage=2)
    keys = set(one.state_dict())
    assert keys < set(two.state_dict())
    assert not any("_moe_gen" in k or "vae2llm" in k for k in keys)
    assert torch.equal(one.get_input_embeddings().weight, two.get_input_embeddings().weight)
    assert isinstance(two.model, BagelModel)
    assert BagelForUnifiedMultimodal.supports_config(two.config)
    assert not BagelForUnifiedMultimodal.supports_config({})


@pytest.fixture
def changed_checkpoint(golden_checkpoint, tmp_path):
    """A copy of the checkpoint whose tensors a function has changed."""

    def make(change):
        shutil.copytree(golden_checkpoint, tmp_path / "changed")
        tensors = load_file(golden_checkpoint / "ema.safetensors")
        save_file(change(tensors), tmp_path / "changed" / "ema.safetensors")
        return tmp_path / "changed"

    return make


def test_model_rooted_keys_conv_patches_and_extra_state_load_the_same_weights(golden_checkpoint, changed_checkpoint):
    patch = "vit_model.vision_model.embeddings.patch_embedding.weight"

    def change(tensors):
        conv = tensors[patch].reshape(-1, 14, 14, 3).permute(0, 3, 1, 2).contiguous()
        tensors = {"model." + k: v for k, v in {**tensors, patch: conv}.items()}
        return {**tensors, "model.language_model.model.layers.0.self_attn._extra_state": torch.zeros(1)}

    same = BagelForUnifiedMultimodal.from_pretrained(golden_checkpoint).state_dict()
    other = BagelForUnifiedMultimodal.from_pretrained(changed_checkpoint(change), strict=True).state_dict()
    assert all(torch.equal(same[k], other[k]) for k in same)


def test_strict_refuses_a_key_that_matches_nothing_and_lenient_loading_ignores_it(changed_checkpoint):
    folder = changed_checkpoint(lambda t: {**t, "surprise.weight": torch.zeros(2)})
    BagelForUnifiedMultimodal.from_pretrained(folder)
    with pytest.raises(bagel_rt.CheckpointError, match=r"surprise\.weight"):
        BagelForUnifiedMultimodal.from_pretrained(folder, strict=True)


def test_a_wrong_shape_names_file_and_key(changed_checkpoint):
    folder = changed_checkpoint(lambda t: {**t, "llm2vae.bias": torch.zeros(3)})
    with pytest.raises(bagel_rt.CheckpointError, match=r"ema\.safetensors.*llm2vae\.bias"):
        BagelForUnifiedMultimodal.from_pretrained(folder)


def test_a_stage_one_checkpoint_starts_a_stage_two_model(changed_checkpoint):
    generation = ("time_embedder", "vae2llm", "llm2vae", "latent_pos_embed")
    folder = changed_checkpoint(
        lambda t: {k: v for k, v in t.items() if "_moe_gen" not in k and not k.startswith(generation)}
    )
    model = BagelForUnifiedMultimodal.from_pretrained(folder, stage=2)
    assert not model.model.llm2vae.weight.any()
    assert model.model.latent_pos_embed.pos_embed.any()


def test_overrides_reach_the_config_and_unknown_ones_are_refused(golden_checkpoint):
    model = BagelForUnifiedMultimodal.from_pretrained(golden_checkpoint, timestep_shift=4.0)
    assert model.config.timestep_shift == 4.0
    with pytest.raises(bagel_rt.CheckpointError, match="timestep_shfit"):
        BagelForUnifiedMultimodal.from_pretrained(golden_checkpoint, timestep_shfit=4.0)
    with pytest.raises(bagel_rt.CheckpointError, match="stage 3"):
        BagelForUnifiedMultimodal.from_pretrained(golden_checkpoint, stage=3)


def test_config_json_fills_nothing_in(golden_checkpoint, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(golden_checkpoint, folder)
    values = json.loads((folder / "llm_config.json").read_text())
    del values["rope_theta"]
    (folder / "llm_config.json").write_text(json.dumps(values))
    with pytest.raises(bagel_rt.CheckpointError, match=r"llm_config\.json.*rope_theta"):
        BagelForUnifiedMultimodal.from_pretrained(folder)


def test_position_tables_start_as_the_papers_sine_cosine_ones():
    from bagel_export.reference.bagel import sincos_table

    table = sincos_table(5, 16).numpy()
    w = 10000.0 ** (-np.arange(4) / 4)
    row, column = 3, 2
    half = lambda p: np.concatenate([np.sin(p * w), np.cos(p * w)])  # noqa: E731
    assert np.allclose(table[row * 5 + column], np.concatenate([half(column), half(row)]), atol=1e-6)

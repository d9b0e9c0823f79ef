"""bagel-nano's training: how samples are packed, that it learns, goes on where it stopped, and leaves a checkpoint."""

from __future__ import annotations

import argparse
import json
import random
import time

import numpy as np
import pytest
import torch
from golden_cases import distance
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_nano import CONFIG, MODEL, TRAINING, VAE
from tokenizers import Tokenizer

import bagel_rt
from bagel_export.artefact.export import export
from bagel_export.reference.masks import from_splits
from bagel_export.reference.vae import SCALE, SHIFT, AutoEncoder
from bagel_export.training.unified import BagelForUnifiedMultimodal
from bagel_rt.inputs.images import patchify, to_pixels
from bench.nano import plot, train, train_vae
from bench.nano.layout import DROP, ROUND, Laid, Layout, dropped
from bench.nano.optimizers import Muon, orthogonal
from bench.nano.pack import Packer, patches, pixels
from bench.nano.pools import Bank, Pools, fresh_counts
from bench.nano.render import render
from bench.nano.shares import Shares
from bench.nano.snapshot import write_snapshot
from bench.nano.start import model_config, moved_rows, prepare, vit_rule
from bench.nano.state import State, Stopped
from bench.nano.supply import Pictures, Supply
from bench.nano.tasks import TASKS
from bench.nano.tokenizer import train_tokenizer
from bench.nano.world import random_scene

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A run stopped after 20 of 40 steps and taken up again."""
    folder = tmp_path_factory.mktemp("nano")
    train.run(CONFIG, folder, steps=20)
    assert torch.load(folder / "model.pt", weights_only=False)["step"] == 20
    train.run(CONFIG, folder)
    return folder


@pytest.fixture(scope="module")
def layout(state):
    return layout_of(state)


def layout_of(state, **how) -> Layout:
    tokenizer = Tokenizer.from_file(str(state / "tokenizer.json"))
    return Layout(tokenizer, MODEL["max_latent_size"], vit_rule(CONFIG), 14, **how)


def packed(laid: list[Laid]) -> dict:
    """The batch of samples whose latents are all zero."""
    for one in laid:
        one.rows = (0,) * len(one.shown)
    return Packer(model_config(MODEL)).pack(laid, torch.zeros(1, 2, 16, 8, 8))


def test_a_stopped_run_goes_on_where_it_was_and_learns(state):
    steps, ce = plot.series(state / "model.jsonl", "step", "ce")
    assert steps.tolist() == [0, 10, 20, 30]
    assert ce[-1] < 0.8 * ce[0]
    assert torch.load(state / "model.pt", weights_only=False)["step"] == 40
    assert (state / "model-trunk.pt").exists()


def test_a_packed_batch_accounts_for_every_token(layout):
    rng = random.Random(3)
    batch = packed([layout.lay(TASKS[name](rng, Shares(0.5, 0.5, 0.5)), rng) for name in TASKS for _ in range(5)])
    length = batch["sequence_length"]
    assert sum(batch["sample_lens"]) == sum(batch["split_lens"]) == len(batch["packed_position_ids"]) == length
    kinds = [batch[f"packed_{kind}_indexes"] for kind in ("text", "vit_token", "vae_token")]
    assert sorted(torch.cat(kinds).tolist()) == list(range(length))
    assert all(n % ROUND == 0 for n in batch["sample_lens"])
    assert len(batch["padded_latent"]) * 16 == len(batch["packed_vae_token_indexes"])
    assert len(batch["packed_vit_tokens"]) == len(batch["packed_vit_token_indexes"])


def test_text_that_is_written_is_learned_up_to_its_end_and_text_that_is_read_is_not(layout):
    sample = TASKS["ask"](random.Random(4))
    batch = packed([layout.lay(sample, random.Random(0))])
    written = [p.text for p in sample if p.kind == "write"]
    labels = batch["packed_label_ids"].tolist()
    assert labels == [*layout.encode(written[0]), layout.special["im_end"]]
    ids = dict(zip(batch["packed_text_indexes"].tolist(), batch["packed_text_ids"].tolist(), strict=True))
    assert [ids[i + 1] for i in batch["ce_loss_indexes"].tolist()] == labels  # each place predicts the next


def test_a_picture_takes_one_position_and_only_the_drawn_one_is_noisy(layout):
    rng = random.Random(5)
    while True:
        batch = packed([layout.lay(TASKS["edit"](rng), rng)])
        if batch["attn_modes"][:3] == ["full", "full", "causal"]:
            break
    starts = np.cumsum([0, *batch["split_lens"]])
    positions = batch["packed_position_ids"].tolist()
    for start, end, mode in zip(starts, starts[1:], batch["attn_modes"], strict=False):
        if mode != "causal":
            assert len(set(positions[start:end])) == 1
    noisy = set(batch["mse_loss_indexes"].tolist())
    drawn = batch["attn_modes"].index("noise")
    assert noisy == set(range(starts[drawn] + 1, starts[drawn + 1] - 1))


def test_copies_of_a_drawn_picture_stand_at_one_position_with_noise_of_their_own_and_do_not_see_each_other(state):
    twice = layout_of(state, draws=2)
    batch = packed([twice.lay(TASKS["draw"](random.Random(8)), random.Random(3))])
    assert batch["attn_modes"] == ["causal", "noise", "noise", "causal"][: len(batch["attn_modes"])]
    starts = np.cumsum([0, *batch["split_lens"]])
    positions = batch["packed_position_ids"].tolist()
    assert positions[starts[1]] == positions[starts[2]] == positions[starts[1] - 1] + 1
    times = batch["packed_timesteps"].view(2, -1)
    assert times[0].unique().numel() == times[1].unique().numel() == 1
    assert times[0, 0] != times[1, 0]
    (mask,) = from_splits(batch["sample_lens"], batch["split_lens"], batch["attn_modes"])
    assert not mask[starts[2] : starts[3], starts[1] : starts[2]].any()


def test_what_is_drawn_is_read_from_where_it_was_drawn_as_a_model_that_reasons_reads_it(state):
    twice = layout_of(state, draws=2)
    rng = random.Random(4)
    while True:
        batch = packed([twice.lay(TASKS["left"](rng), rng)])
        if batch["attn_modes"][:2] == ["causal", "full"]:  # nothing was dropped
            break
    modes, starts = batch["attn_modes"], np.cumsum([0, *batch["split_lens"]])
    first = [batch["packed_position_ids"].tolist()[at] for at in starts[:-1]]
    drawn = modes.index("noise")
    assert modes[drawn : drawn + 4] == ["noise", "noise", "full", "full"]
    assert first[drawn] == first[drawn + 1] == first[drawn + 2] == first[drawn + 3] - 1
    labels = batch["packed_label_ids"].tolist()
    assert twice.tokenizer.decode(labels).endswith("</answer>")


def test_a_lesson_is_taught_from_a_checkpoint_and_the_run_goes_on_where_it_was(state, tmp_path):
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "state"
    write_snapshot(state, checkpoint, CONFIG)
    mix = {"draw": 2, "edit": 1, "ask": 1, "left": 2, "left in words": 2}
    config = {**CONFIG, "counting": {"steps": 4, "decay_steps": 2, "warmup": 1, "first_fill": 4, "mix": mix}}
    train.run(config, folder, 1, checkpoint=checkpoint, lesson="counting")
    train.run(config, folder, checkpoint=checkpoint, lesson="counting")
    assert torch.load(folder / "model.pt", weights_only=False)["step"] == 4
    write_snapshot(folder, tmp_path / "taught", CONFIG)
    before, after = (load_file(path / "ema.safetensors") for path in (checkpoint, tmp_path / "taught"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    vaes = [load_file(path / "ae.safetensors") for path in (checkpoint, tmp_path / "taught")]
    assert all(torch.equal(vaes[0][name], vaes[1][name]) for name in vaes[0])


def test_a_checkpoint_that_is_not_done_goes_on_at_its_step_and_warms_up_there(state, tmp_path):
    write_snapshot(state, tmp_path / "checkpoint", CONFIG, done=False)  # at step 40
    long = {**CONFIG, "training": {**TRAINING, "decay_steps": 1}}
    train.run(long, tmp_path / "state", 42, checkpoint=tmp_path / "checkpoint")
    logged, rates = plot.series(tmp_path / "state" / "model.jsonl", "step", "rate")
    assert logged.tolist() == [40]
    assert rates.tolist() == [1 / TRAINING["warmup"]]
    assert torch.load(tmp_path / "state" / "model.pt", weights_only=False)["step"] == 42


def test_new_tokens_begin_as_those_that_spelt_them_and_known_ones_as_they_were(state):
    old = Tokenizer.from_file(str(state / "tokenizer.json"))
    new = train_tokenizer(400, 0, Shares(sentences=1.0), texts=900)
    rows = torch.randn(320, 4, generator=torch.Generator().manual_seed(0))
    moved = moved_rows(rows, old, new, 400)
    known, ids = old.get_vocab(), new.get_vocab()
    kept = [token for token in ids if token in known]
    assert len(kept) > 256
    assert all(torch.equal(moved[ids[token]], rows[known[token]]) for token in kept)
    spelt = next(token for token in ids if token not in known and len(token) == 2)
    assert torch.allclose(moved[ids[spelt]], rows[[known[letter] for letter in spelt]].mean(0))


def test_training_with_new_tokens_begins_with_a_checkpoints_weights(state, tmp_path):
    write_snapshot(state, tmp_path / "checkpoint", CONFIG)
    wider = {**CONFIG, "model": {**MODEL, "vocabulary": 340}}
    train.run(wider, tmp_path / "state", 1, checkpoint=tmp_path / "checkpoint", new_tokens=True)
    write_snapshot(tmp_path / "state", tmp_path / "again", wider)
    (one, other) = (load_file(tmp_path / name / "ema.safetensors") for name in ("checkpoint", "again"))
    head = "language_model.lm_head.weight"
    assert (len(one[head]), len(other[head])) == (320, 340)
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    assert (one[name] - other[name]).abs().max() < 0.05


def test_a_step_gets_the_same_samples_whatever_was_made_before_it_and_whoever_made_it():
    recipe = train.recipe(CONFIG, TRAINING, train_tokenizer(320, 0, texts=900).to_str())
    alone = [recipe(step) for step in (7, 8)]
    with Supply(recipe, 1) as supply:
        ahead = [supply(step) for step in (7, 8)]
    for mine, other in zip(alone, ahead, strict=True):
        assert mine.keys() == other.keys()
        for name in mine:
            for a, b in zip(mine[name], other[name], strict=True):
                assert (a.ids.tolist(), a.splits, a.latents) == (b.ids.tolist(), b.splits, b.latents)
                assert np.array_equal(a.shown, b.shown)
                assert np.array_equal(a.looked, b.looked)
    assert alone[0]["draw"][0].ids.tolist() != alone[1]["draw"][0].ids.tolist()


def test_a_run_that_goes_on_draws_the_batches_that_it_would_have_drawn():
    recipe = train.recipe(CONFIG, TRAINING, train_tokenizer(320, 0, texts=900).to_str())
    how = {**TRAINING, "first_fill": TRAINING["pool"]}

    def batches(first: int) -> train.Batches:
        bank = Bank(lambda shown: torch.from_numpy(shown[:, None, :1, :8, :8].repeat(2, 1).repeat(16, 2)).float())
        return train.Batches(
            Supply(recipe, 0), Pools(how["mix"], how["pool"], bank), Packer(model_config(MODEL)), how, first
        )

    whole, later = batches(0), batches(20)
    for step in range(20):
        whole(step)
    one, other = whole(20), later(20)
    assert one["packed_text_ids"].tolist() == other["packed_text_ids"].tolist()
    assert torch.equal(one["padded_latent"], other["padded_latent"])
    assert torch.equal(one["packed_vit_tokens"], other["packed_vit_tokens"])


def test_pools_keep_the_newest_samples_and_every_one_its_own_latents():
    encode = lambda shown: torch.from_numpy(shown[:, 0, 0, 0]).float().view(-1, 1, 1, 1, 1).expand(-1, 2, 16, 1, 1)  # noqa: E731
    pools = Pools({"draw": 2, "ask": 1}, 6, Bank(encode, rows=1))
    for value in range(0, 200, 2):
        pools.add({"draw": [laid(value), laid(value + 1)], "ask": [laid(0, shown=0)]})
    kept = pools.pools["draw"]
    assert [one.ids[0] for one in kept] == list(range(194, 200))
    assert [pools.bank.values[one.rows[0]].unique().item() for one in kept] == list(range(194, 200))
    assert len(pools.pools["ask"]) == 1
    assert len(pools.bank.values) <= 16


def laid(value: int, shown: int = 1) -> Laid:
    pictures = np.full((shown, 2, 2, 3), value, np.uint8)
    nothing = np.zeros(0, np.int32)
    return Laid(np.array([value]), nothing, (), nothing, pictures[:0], pictures, ((0, True),) * shown)


def test_a_steps_samples_are_in_the_mix_s_proportions():
    mix = {"draw": 60, "edit": 30, "ask": 40, "left": 10, "left in words": 5}
    assert fresh_counts(mix, 20) == {"draw": 12, "edit": 6, "ask": 40, "left": 2, "left in words": 5}


def test_patches_of_a_batch_are_those_that_the_runtime_makes_of_each_picture():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 56, 56, 3), dtype=np.uint8)
    batch = patches(pixels(pictures), 14)
    each = np.concatenate([patchify(to_pixels(Image.fromarray(p)), 14) for p in pictures])
    assert np.allclose(batch.numpy(), each, atol=1e-6)


def test_muon_of_all_matrices_at_once_is_muon_of_each(monkeypatch):
    monkeypatch.setattr("bench.nano.optimizers.type_on", lambda device: torch.bfloat16)
    torch.manual_seed(0)
    shapes = ((8, 16), (8, 16), (16, 8))
    mine = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    other = [torch.nn.Parameter(p.detach().clone()) for p in mine]
    tools = Muon(mine, 0.02, 0.1), torch.optim.Muon(other, 0.02, 0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for one, two in zip(mine, other, strict=True):
            one.grad = torch.randn_like(one)
            two.grad = one.grad.clone()
        for tool in tools:
            tool.step()
    for one, two in zip(mine, other, strict=True):
        torch.testing.assert_close(one, two, atol=3e-3, rtol=0)


def test_orthogonal_matrices_have_singular_values_near_one():
    matrices = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices).float())
    assert (values.min() > 0.5, values.max() < 1.3) == (True, True)


def test_a_run_ends_saved_when_its_time_is_over(state, tmp_path, monkeypatch):
    config = {**CONFIG, "training": {**TRAINING, "steps": 10**6}}
    write_snapshot(state, tmp_path / "checkpoint", CONFIG)
    monkeypatch.setattr("bench.nano.state._deadline", time.monotonic() + 0.5)
    with pytest.raises(Stopped, match="the same command goes on"):
        train.run(config, tmp_path / "state", checkpoint=tmp_path / "checkpoint")
    assert 0 < torch.load(tmp_path / "state" / "model.pt", weights_only=False)["step"] < 10**6


def test_conditions_are_dropped_as_often_as_the_paper_drops_them():
    rng = random.Random(6)
    sample = next(s for s in (TASKS["edit"](rng) for _ in range(9)))
    kept = np.array([dropped(sample, rng) for _ in range(4000)])
    share = dict(zip([p.kind for p in sample], 1 - kept.mean(axis=0), strict=True))
    for kind, wanted in DROP.items():
        assert share[kind] == pytest.approx(wanted, abs=0.03)
    assert share["draw"] == 0


@pytest.mark.parametrize("shift, moved", [(0.0, 1e-4), (SHIFT, 0.2)])  # at borders the padding's zero is SHIFT off
def test_scaling_gives_the_latents_unit_variance_in_bagels_constants_and_changes_no_picture(monkeypatch, shift, moved):
    monkeypatch.setattr(train_vae, "SHIFT", shift)
    torch.manual_seed(0)
    vae = AutoEncoder(32).eval().requires_grad_(False)
    pictures = Pictures(64, 0.0, seed=7)
    x = pixels(pictures(0))
    assert vae.encoder.conv_out.bias is not None
    vae.encoder.conv_out.bias[:16] -= vae.encoder(x).chunk(2, 1)[0].mean(dim=(0, 2, 3))  # as training keeps it
    before = vae.decoder(vae.encoder(x).chunk(2, 1)[0]).numpy()
    train_vae.scale_latents(vae, pictures, batches=1)
    z = vae.encoder(x).chunk(2, 1)[0]
    assert distance(vae.decoder(z), before) < moved
    latents = SCALE * (z - shift)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert latents.std(dim=(0, 2, 3)).sub(1).abs().max() < 1e-3


def test_a_vae_that_is_taken_further_begins_with_its_weights_and_runs_for_steps_of_its_own(tmp_path):
    given = AutoEncoder(32).state_dict()
    State(tmp_path, train_vae.BEGUN).put(vae=given)
    how = {**VAE, "steps": 0, "tune_steps": 3, "tune_rate": 0.0}
    taken = train_vae.train(how, State(tmp_path, "vae"), torch.device("cpu"))
    assert all(torch.equal(taken.state_dict()[name], value) for name, value in given.items())
    assert State(tmp_path, "vae").load()["step"] == 3


def test_another_vae_is_taken_from_its_file_as_it_is(state, tmp_path):
    write_snapshot(state, checkpoint := tmp_path / "checkpoint", CONFIG)
    other = {name: value.bfloat16() for name, value in AutoEncoder(32).state_dict().items()}
    save_file(other, file := tmp_path / "other.safetensors")
    prepare(CONFIG, tmp_path / "more", checkpoint, False, str(file))
    taken = State(tmp_path / "more", "vae-final").load()
    assert taken["polished"] == VAE["polish_steps"]
    assert all(torch.equal(taken["vae"][name], value.float()) for name, value in other.items())
    with pytest.raises(argparse.ArgumentTypeError, match=r"neither one of keep, polish, tune nor a file"):
        train._vae("tuned")


def test_a_half_written_state_never_replaces_a_whole_one(tmp_path, monkeypatch):
    state = State(tmp_path, "model")
    state.save(step=1)

    def torn(parts, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match="disk full"):
        state.save(step=2)
    assert state.load() == {"step": 1}


def test_a_snapshot_is_an_official_checkpoint_that_exports_and_draws(state, tmp_path):
    write_snapshot(state, tmp_path / "checkpoint", CONFIG)
    loaded = BagelForUnifiedMultimodal.from_pretrained(tmp_path / "checkpoint", strict=True)
    average = torch.load(state / "model.pt", weights_only=False)["average"]
    weight = "model.language_model.model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(loaded.state_dict()[weight], average[weight].bfloat16().float())
    for _ in export(tmp_path / "checkpoint", tmp_path / "artefact", verify=False):
        pass
    with bagel_rt.load(tmp_path / "artefact", "onnxruntime") as bagel:
        picture = bagel.generate("a red circle", seed=0, num_timesteps=3).image
        assert picture.size == (64, 64)
        scene = Image.fromarray(render(random_scene(random.Random(8))))
        assert bagel.edit(scene, "make it red", seed=0, num_timesteps=3).image.size == (64, 64)


def test_the_losses_are_plotted(state, tmp_path):
    (state / "vae.jsonl").write_text(json.dumps({"step": 0, "error": 0.5}) + "\n")
    plot.draw(state, tmp_path / "losses.png")
    assert Image.open(tmp_path / "losses.png").width > 600


def test_a_running_mean_forgets_what_lies_far_back():
    values = np.concatenate([np.zeros(100), np.ones(100)])
    smooth = plot.smoothed(values)
    assert smooth[:100].tolist() == [0] * 100
    assert smooth[-1] == 1
    assert smooth[100] == pytest.approx(1 / plot.SMOOTH)

"""bagel-nano's training: how samples are packed, that it learns, goes on where it stopped, and leaves a checkpoint."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from golden_cases import distance
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer

import bagel_rt
from bagel_export.artefact.export import export
from bagel_export.reference.masks import from_splits
from bagel_export.reference.vae import SCALE, SHIFT, AutoEncoder
from bagel_export.training.unified import BagelForUnifiedMultimodal
from bagel_rt.artefact.manifest import ResizeRule
from bench.nano import finetune, plot, train, train_vae
from bench.nano.pack import DROP, ROUND, Packer, Stored, dropped
from bench.nano.render import render
from bench.nano.snapshot import write_snapshot
from bench.nano.state import State
from bench.nano.tasks import TASKS
from bench.nano.world import random_scene

MODEL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_latent_size": 4, "rope_theta": 1e4, "timestep_shift": 2.0, "vit_hidden_size": 32,
    "vit_intermediate_size": 64, "vit_num_hidden_layers": 2, "vit_num_attention_heads": 2, "vit_side": 56,
    "vocabulary": 320, "seed": 0,
}  # fmt: skip
VAE = {
    "base_width": 32, "batch": 2, "steps": 2, "polish_steps": 1, "polish_noise": 0.05, "learning_rate": 1e-3,
    "warmup": 2, "kl_weight": 1e-5, "mean_weight": 1e-2, "ema": 0.9, "seed": 1,
}  # fmt: skip
TRAINING = {
    "steps": 40, "decay_steps": 10, "warmup": 4, "muon_rate": 5e-3, "adam_rate": 5e-3, "weight_decay": 0.0,
    "ce_weight": 0.5, "ema": 0.9, "pool": 60, "first_fill": 20, "fresh": 4,
    "mix": {"draw": 6, "edit": 3, "ask": 4, "think": 2}, "draws": 2, "fuse": False, "seed": 2,
}  # fmt: skip
CONFIG = {"model": MODEL, "vae": VAE, "training": TRAINING}


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A run stopped after 20 of 40 steps and taken up again."""
    folder = tmp_path_factory.mktemp("nano")
    train.run(CONFIG, folder, steps=20)
    assert torch.load(folder / "model.pt", weights_only=False)["step"] == 20
    train.run(CONFIG, folder)
    return folder


@pytest.fixture(scope="module")
def packer(state):
    shape = train.model_config(MODEL)
    return Packer(Tokenizer.from_file(str(state / "tokenizer.json")), shape, ResizeRule(56, 56, 14))


def stored(name: str, rng: random.Random) -> Stored:
    sample = TASKS[name](rng)
    pictures = sum(part.kind in ("keep", "draw") for part in sample)
    return Stored(sample, tuple(torch.zeros(2, 16, 8, 8) for _ in range(pictures)))


def test_a_stopped_run_goes_on_where_it_was_and_learns(state):
    steps, ce = plot.series(state / "model.jsonl", "step", "ce")
    assert steps.tolist() == [0, 10, 20, 30]
    assert ce[-1] < 0.8 * ce[0]
    assert torch.load(state / "model.pt", weights_only=False)["step"] == 40
    assert (state / "model-trunk.pt").exists()


def test_a_packed_batch_accounts_for_every_token(packer):
    rng = random.Random(3)
    batch = packer.pack([stored(name, rng) for name in TASKS for _ in range(5)], rng)
    length = batch["sequence_length"]
    assert sum(batch["sample_lens"]) == sum(batch["split_lens"]) == len(batch["packed_position_ids"]) == length
    kinds = [batch[f"packed_{kind}_indexes"] for kind in ("text", "vit_token", "vae_token")]
    assert sorted(torch.cat(kinds).tolist()) == list(range(length))
    assert all(n % ROUND == 0 for n in batch["sample_lens"])
    assert len(batch["padded_latent"]) * 16 == len(batch["packed_vae_token_indexes"])
    assert len(batch["packed_vit_tokens"]) == len(batch["packed_vit_token_indexes"])


def test_text_that_is_written_is_learned_up_to_its_end_and_text_that_is_read_is_not(packer):
    sample = stored("ask", random.Random(4))
    batch = packer.pack([sample], random.Random(0))
    written = [p.text for p in sample.sample if p.kind == "write"]
    labels = batch["packed_label_ids"].tolist()
    assert labels == [*packer.encode(written[0]), packer.special["im_end"]]
    ids = dict(zip(batch["packed_text_indexes"].tolist(), batch["packed_text_ids"].tolist(), strict=True))
    assert [ids[i + 1] for i in batch["ce_loss_indexes"].tolist()] == labels  # each place predicts the next


def test_a_picture_takes_one_position_and_only_the_drawn_one_is_noisy(packer):
    rng = random.Random(5)
    while True:
        sample = stored("edit", rng)
        batch = packer.pack([sample], rng)
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


def test_copies_of_a_drawn_picture_stand_at_one_position_with_noise_of_their_own_and_do_not_see_each_other(packer):
    twice = Packer(packer.tokenizer, packer.config, packer.vit_rule, draws=2)
    batch = twice.pack([stored("draw", random.Random(8))], random.Random(3))
    assert batch["attn_modes"] == ["causal", "noise", "noise", "causal"][: len(batch["attn_modes"])]
    starts = np.cumsum([0, *batch["split_lens"]])
    positions = batch["packed_position_ids"].tolist()
    assert positions[starts[1]] == positions[starts[2]] == positions[starts[1] - 1] + 1
    times = batch["packed_timesteps"].view(2, -1)
    assert times[0].unique().numel() == times[1].unique().numel() == 1
    assert times[0, 0] != times[1, 0]
    (mask,) = from_splits(batch["sample_lens"], batch["split_lens"], batch["attn_modes"])
    assert not mask[starts[2] : starts[3], starts[1] : starts[2]].any()


def test_what_is_drawn_is_read_from_where_it_was_drawn_as_a_model_that_reasons_reads_it(packer):
    twice = Packer(packer.tokenizer, packer.config, packer.vit_rule, draws=2)
    rng = random.Random(4)
    while True:
        batch = twice.pack([stored("left", rng)], rng)
        if batch["attn_modes"][:2] == ["causal", "full"]:  # nothing was dropped
            break
    modes, starts = batch["attn_modes"], np.cumsum([0, *batch["split_lens"]])
    first = [batch["packed_position_ids"].tolist()[at] for at in starts[:-1]]
    drawn = modes.index("noise")
    assert modes[drawn : drawn + 4] == ["noise", "noise", "full", "full"]
    assert first[drawn] == first[drawn + 1] == first[drawn + 2] == first[drawn + 3] - 1
    labels = batch["packed_label_ids"].tolist()
    assert packer.tokenizer.decode(labels).endswith("</answer>")


def test_a_task_more_is_taught_from_a_checkpoint_and_the_run_goes_on_where_it_was(state, tmp_path):
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "state"
    write_snapshot(state, checkpoint, CONFIG)
    mix = {"draw": 2, "edit": 1, "ask": 1, "left": 2, "left in words": 2}
    config = {**CONFIG, "counting": {"steps": 4, "decay_steps": 2, "warmup": 1, "first_fill": 4, "mix": mix}}
    finetune.run(config, folder, checkpoint, steps=1)
    finetune.run(config, folder, checkpoint)
    assert torch.load(folder / "model.pt", weights_only=False)["step"] == 4
    write_snapshot(folder, tmp_path / "taught", CONFIG)
    before, after = (load_file(path / "ema.safetensors") for path in (checkpoint, tmp_path / "taught"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


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
    rng = random.Random(7)
    x = train_vae.pixels([random_scene(rng) for _ in range(64)])
    assert vae.encoder.conv_out.bias is not None
    vae.encoder.conv_out.bias[:16] -= vae.encoder(x).chunk(2, 1)[0].mean(dim=(0, 2, 3))  # as training keeps it
    before = vae.decoder(vae.encoder(x).chunk(2, 1)[0]).numpy()
    train_vae.scale_latents(vae, seed=7, batches=1)
    z = vae.encoder(x).chunk(2, 1)[0]
    assert distance(vae.decoder(z), before) < moved
    latents = SCALE * (z - shift)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert latents.std(dim=(0, 2, 3)).sub(1).abs().max() < 1e-3


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

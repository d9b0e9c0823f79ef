"""What bagel-nano is told of a picture's cells while it learns, and that a checkpoint knows nothing of it."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_nano import CONFIG, MODEL

from bagel_export.training.unified import BagelForUnifiedMultimodal
from bench.nano import start, train
from bench.nano.facts import COUNT, FACTS, facts
from bench.nano.hints import Heads, Taps
from bench.nano.layout import Laid, Layout
from bench.nano.pack import Packer, told
from bench.nano.shares import Shares
from bench.nano.snapshot import write_snapshot
from bench.nano.tasks import TASKS, Part
from bench.nano.tokenizer import train_tokenizer
from bench.nano.world import BACKGROUNDS, Manner, Placed, Scene, Thing, random_scene

pytestmark = pytest.mark.bench
RED_RING, BLUE_STAR = Thing("ring", "red", "small"), Thing("star", "blue", "big")


@pytest.fixture(scope="module")
def layout() -> Layout:
    return Layout(train_tokenizer(320, 0, texts=300), MODEL["max_latent_size"], start.vit_rule(CONFIG), 14, draws=2)


def said_of(cell: np.ndarray) -> set[tuple[str | None, str | None]]:
    return {fact for fact, there in zip(FACTS, cell, strict=False) if there}


def test_each_cell_is_told_what_lies_in_it_and_on_which_ground():
    scene = Scene((Placed(RED_RING, (0, 0)), Placed(BLUE_STAR, (2, 2))), "beige")
    cells = facts(scene, 4).reshape(4, 4, COUNT)
    assert said_of(cells[0, 0]) == {("ring", None), (None, "red"), ("ring", "red")}
    assert said_of(cells[3, 3]) == {("star", None), (None, "blue"), ("star", "blue")}
    assert said_of(cells[0, 3]) == said_of(cells[3, 0]) == set()
    ground = cells[..., len(FACTS) :]
    assert (ground == [name == "beige" for name in BACKGROUNDS]).all()


def test_a_thing_between_cells_lies_in_all_of_them_and_two_in_a_cell_are_both_told():
    across = facts(Scene((Placed(BLUE_STAR, (1, 1)),), "white"), 4).reshape(4, 4, COUNT)
    assert [bool(said_of(across[y, x])) for y in range(4) for x in range(4)].count(True) == 4
    close = (Placed(BLUE_STAR, (0, 0)), Placed(RED_RING, (1, 0), dx=-5.0))
    assert {("star", "blue"), ("ring", "red")} <= said_of(facts(Scene(close, "white"), 4)[1])


def test_a_ground_without_a_name_is_told_nothing_of():
    scene = Scene((Placed(RED_RING, (0, 0)),), "white", Manner("varied", 64, named=False))
    assert not facts(scene, 4)[:, len(FACTS) :].any()
    assert facts(replace(scene, manner=None), 4)[:, len(FACTS) :].any()


def test_facts_stand_in_the_order_of_the_packed_rows(layout):
    rng = random.Random(2)
    scenes = [random_scene(rng) for _ in range(4)]
    long, short = "many words " * 30, "few"
    laid = [
        layout.lay((Part("read", long), Part("draw", scene=scenes[0])), rng),
        layout.lay((Part("look", scene=scenes[1]), Part("read", long * 2)), rng),
        layout.lay((Part("keep", scene=scenes[2]), Part("read", short), Part("draw", scene=scenes[3])), rng),
    ]
    given = told(laid)
    first, twice = facts(scenes[2], 4), [facts(scenes[3], 4)] * 2
    assert np.array_equal(given["latents"], np.concatenate([first, *twice, *[facts(scenes[0], 4)] * 2]))
    assert np.array_equal(given["looks"], facts(scenes[1], 4))


def packed(laid: list[Laid]) -> dict:
    for one in laid:
        one.rows = (0,) * len(one.shown)
    return Packer(start.model_config(MODEL)).pack(laid, torch.randn(1, 2, 16, 8, 8))


def test_every_row_has_its_facts_whatever_the_samples_are(layout):
    rng = random.Random(5)
    laid = [layout.lay(TASKS[name](rng, Shares(0.5, 0.5, 0.5)), rng) for name in TASKS for _ in range(4)]
    batch, given = packed(laid), told(laid)
    assert len(given["latents"]) == len(batch["packed_vae_token_indexes"])
    assert len(given["looks"]) == len(batch["packed_vit_token_indexes"])


def test_hints_teach_the_vit_and_the_lower_layers_alone(layout):
    torch.manual_seed(0)
    model, rng = start.hinted(BagelForUnifiedMultimodal(start.model_config(MODEL))), random.Random(6)
    heads, taps = model.get_submodule("hints"), Taps(model)
    assert isinstance(heads, Heads)
    for head in (heads.looks, heads.latents):
        torch.nn.init.normal_(head.weight)
    laid = [layout.lay(TASKS["edit"](rng), rng) for _ in range(6)]
    model(**packed(laid))
    taps.loss(heads, told(laid)).backward()
    taught = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(".vit_model." in name for name in taught)
    assert any(".layers.0." in name and "moe_gen" in name for name in taught)
    assert not any(".layers.1." in name or "llm2vae" in name for name in taught)


def test_without_pictures_nothing_is_missed(layout):
    model = start.hinted(BagelForUnifiedMultimodal(start.model_config(MODEL)))
    laid = [layout.lay((Part("read", "a word"), Part("write", "another")), random.Random(0))]
    heads, taps = model.get_submodule("hints"), Taps(model)
    assert isinstance(heads, Heads)
    model(**packed(laid))
    assert taps.loss(heads, told(laid)).item() == 0


def test_a_run_misses_less_of_its_hints_and_its_checkpoint_has_no_heads(tmp_path):
    state = tmp_path / "state"
    train.run(CONFIG, state)
    write_snapshot(state, tmp_path / "checkpoint", CONFIG)
    from bench.nano import plot

    _, missed = plot.series(state / "model.jsonl", "step", "hints")
    assert missed[-1] < 0.5 * missed[0]
    assert not any("hints" in name for name in load_file(tmp_path / "checkpoint" / "ema.safetensors"))

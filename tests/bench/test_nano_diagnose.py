"""What is wrong with a picture that fails, and what the VAE alone gets wrong."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bagel_rt
from bench.nano import diagnose
from bench.nano.cases import Case
from bench.nano.checker import look
from bench.nano.diagnose import faults
from bench.nano.render import render
from bench.nano.tasks import any_edit
from bench.nano.through_vae import redraws
from bench.nano.world import Placed, Scene, Thing, Wish, with_thing, without

RED, BLUE = Thing("circle", "red", "big"), Thing("square", "blue", "big")
PAIR = Scene((Placed(RED, (0, 1)), Placed(BLUE, (2, 1))), "white")


@pytest.mark.parametrize(
    "scene, wrong",
    [
        (PAIR, {}),
        (without(PAIR, 1), {"missing"}),
        (replace(PAIR, placed=(*PAIR.placed, Placed(RED, (1, 0)))), {"too many"}),
        (with_thing(PAIR, 0, PAIR.placed[0].recoloured("green")), {"colour"}),
        (with_thing(PAIR, 1, Placed(replace(BLUE, shape="star"), (2, 1))), {"shape"}),
        (with_thing(PAIR, 1, Placed(replace(BLUE, size="small"), (2, 1))), {"size"}),
        (replace(PAIR, background="black"), {"ground"}),
        (replace(PAIR, placed=(Placed(RED, (2, 1)), Placed(BLUE, (0, 1)))), {"relation"}),
    ],
)
def test_what_is_wrong_with_a_picture_is_named(scene, wrong):
    wish = Wish((Thing("circle", "red", "big"), Thing("square", "blue", "big")), "left of", "white")
    assert set(faults(look(render(scene)), Case("position", "", 0, wish=wish))) == set(wrong)


def test_a_thing_that_moved_in_an_edit_is_named():
    edit = any_edit_of("recolour")
    seen = look(render(with_thing(edit.after, 0, replace(edit.after.placed[0], dx=9.0))))
    assert set(faults(seen, Case("edits", "", 0, edit=edit))) == {"place"}


def any_edit_of(action: str):
    rng = random.Random(11)
    return next(e for e in iter(lambda: any_edit(rng, PAIR), 0) if e and e.action == action)


def test_a_perfect_vae_redraws_as_many_as_are_read_and_a_blind_one_none():
    perfect = diagnose.of_the_vae(lambda picture: picture, 12)
    assert {name.split(",")[0] for name in perfect} == {"plain", "varied", "people"}
    assert all(row["share"] > 0.9 for row in perfect.values())
    blind = diagnose.of_the_vae(np.zeros_like, 12)
    assert all(row["right"] == 0 for name, row in blind.items() if name.endswith("redrawn"))


def test_the_halves_are_set_apart_by_their_shares():
    assert diagnose.apart({"edits": {"share": 0.75}}, {"edits": {"share": 0.5}}) == {"edits": 0.25}


@pytest.mark.parametrize(
    "answer, given, wrong",
    [
        ("yes", "no", {"yes or no"}),
        (
            "two red circles and a star on a gray background",
            "two red circles and a ring on a gray background",
            {"shape"},
        ),
        ("two red circles on a gray background", "three blue circles on a gray background", {"number", "colour"}),
        (
            "a star left of a ring on a white background",
            "a star above a ring on a black background",
            {"relation", "ground"},
        ),
        ("a red star and a ring", "a ring and a red star", {"its wording"}),
    ],
)
def test_what_is_wrong_with_an_answer_is_named(answer, given, wrong):
    assert set(diagnose.misread(answer, given)) == wrong


def test_a_vaes_weights_redraw_a_picture_as_its_exported_graphs_do():
    picture = render(PAIR)
    redraw = redraws(Path(diagnose.__file__).parent / "bagel-nano" / "ae.safetensors")
    with bagel_rt.load("bagel-nano", "onnxruntime") as bagel:  # int8
        assert np.abs(redraw(picture).astype(int) - diagnose.redrawn(bagel, picture)).mean() < 1.5

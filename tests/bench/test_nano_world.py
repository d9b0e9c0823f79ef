"""The world bagel-nano is trained on: pictures, words, what is kept out, and the checker that reads pictures."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagel_rt.styles.files import read_style
from bench.nano import score_left, words
from bench.nano.cases import DRAWING, Case, all_cases
from bench.nano.checker import fulfils, look, shows
from bench.nano.intervals import paired, wilson
from bench.nano.render import render
from bench.nano.score import edited, is_right
from bench.nano.tasks import (
    DRAW,
    DRAW_THEN_ANSWER,
    TASKS,
    answered,
    any_edit,
    any_left,
    any_question,
    any_wish,
    caption,
    caption_order,
)
from bench.nano.world import (
    BACKGROUNDS,
    COLOURS,
    MOST,
    RELATIONS,
    SHAPES,
    Placed,
    Scene,
    Thing,
    Wish,
    free_cells,
    random_scene,
    realise,
    scene_held_out,
    wish_held_out,
    with_thing,
    without,
)

rngs = st.integers(0, 2**32 - 1).map(random.Random)
CLEAN, RIGHT = 600, 0.995


def other(rng: random.Random, values, but: object):
    return rng.choice([v for v in values if v != but])


def test_the_checker_is_right_on_clean_pictures():
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(CLEAN)]
    assert sum(shows(look(render(s)), s) for s in scenes) / CLEAN >= RIGHT


def test_the_checker_reads_pictures_of_twice_the_size():
    rng = random.Random(1)
    scenes = [random_scene(rng) for _ in range(60)]
    assert sum(shows(look(render(s, 128)), s) for s in scenes) >= 59


def spoilt(scene: Scene, wrong: str, rng: random.Random) -> Scene:
    """The scene with one thing wrong."""
    placed = scene.placed[0]
    thing, free = placed.thing, free_cells(scene)
    if wrong == "missing":
        return without(scene, 0)
    if wrong == "extra":
        return replace(scene, placed=(*scene.placed, Placed(thing, rng.choice(free))))
    if wrong == "background":
        return replace(scene, background=other(rng, BACKGROUNDS, scene.background))
    if wrong == "place":
        return with_thing(scene, 0, replace(placed, cell=rng.choice(free)))
    if wrong == "colour":
        thing = replace(thing, colour=other(rng, COLOURS, thing.colour))
    else:
        thing = replace(thing, shape=other(rng, SHAPES, thing.shape))
    return with_thing(scene, 0, replace(placed, thing=thing))


@pytest.mark.parametrize("wrong", ["colour", "shape", "place", "missing", "extra", "background"])
def test_the_checker_rejects_a_picture_with_one_thing_wrong(wrong):
    rng, tried = random.Random(wrong), 150
    scenes = [random_scene(rng) for _ in range(tried)]
    rejected = sum(not shows(look(render(spoilt(s, wrong, rng))), s) for s in scenes)
    assert rejected / tried >= RIGHT


def test_the_checker_finds_no_shape_in_noise_and_none_on_an_empty_ground():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert not any(look(noise).found)
    assert look(np.full((64, 64, 3), 255, np.uint8)).found == ()


def test_a_picture_made_for_a_wish_fulfils_it():
    rng, tried = random.Random(9), 300
    wishes = [any_wish(rng) for _ in range(tried)]
    assert sum(fulfils(look(render(realise(w, rng))), w) for w in wishes) / tried >= 0.99


def test_a_wish_is_not_fulfilled_by_another_number_relation_or_background():
    red, blue = Thing("circle", "red", "big"), Thing("square", "blue", "big")
    scene = Scene((Placed(red, (0, 1)), Placed(blue, (2, 1))), "white")
    seen = look(render(scene))
    assert fulfils(seen, Wish((red, blue), "left of", "white"))
    assert fulfils(seen, Wish((Thing("square"), Thing("circle"))))
    for wrong in (
        Wish((red,)),
        Wish((red, blue, blue)),
        Wish((red, red)),
        Wish((red, blue), "right of"),
        Wish((red, blue), "above"),
        Wish((red, blue), None, "black"),
        Wish((replace(red, size="small"), blue)),
        Wish((replace(red, colour="blue"), replace(blue, colour="red"))),
    ):
        assert not fulfils(seen, wrong), wrong


@pytest.mark.parametrize("task", TASKS)
def test_no_training_sample_shows_a_combination_kept_for_the_score(task):
    rng = random.Random(task)
    for _ in range(1500):
        for part in TASKS[task](rng):
            assert part.scene is None or not scene_held_out(part.scene)


def test_no_training_prompt_is_asked_in_the_score():
    rng = random.Random(3)
    trained = {part.text for _ in range(4000) for part in TASKS["draw"](rng)}
    asked = {c.prompt for c in all_cases() if c.category in (*DRAWING, "Chinese")}
    assert not trained & asked


def test_the_score_asks_at_least_six_hundred_held_out_prompts_and_the_same_each_time():
    cases = all_cases()
    assert cases == all_cases()
    drawn = [c for c in cases if c.category in DRAWING]
    assert len(drawn) >= 600
    assert all(c.wish is not None and wish_held_out(c.wish) for c in drawn)
    for category in ("questions", "captions"):
        assert all(c.scene and scene_held_out(c.scene) for c in cases if c.category == category)
    assert all(scene_held_out(c.edit.before) for c in cases if c.edit)


def test_a_perfect_painter_gets_every_drawing_right_and_a_deaf_one_few():
    from PIL import Image

    rng, perfect, deaf = random.Random(4), 0, 0
    cases = [c for c in all_cases() if c.wish][::9]
    for case in cases:
        perfect += is_right(case, Image.fromarray(render(realise(case.wish, rng))), None)
        deaf += is_right(case, Image.fromarray(render(random_scene(rng))), None)
    assert perfect >= len(cases) - 1
    assert deaf <= len(cases) * 0.1


def test_an_edit_counts_when_it_is_done_and_nothing_else_changed():
    rng, right, tried = random.Random(5), 0, 60
    edits = (any_edit(rng, random_scene(rng)) for _ in range(1000))
    for edit in islice((e for e in edits if e is not None and len(e.after.placed) > 1), tried):
        case = Case("edits", edit.instruction, 0, edit=edit)
        pictures = edit.after, edit.before, without(edit.after, 0)
        right += [edited(look(render(p)), case) for p in pictures] == [True, False, False]
    assert right / tried >= 0.98  # of three pictures each


@settings(max_examples=150, deadline=None)
@given(rngs)
def test_every_question_has_the_answer_that_the_scene_gives(rng):
    scene = random_scene(rng)
    question = any_question(rng, scene)
    if question is None:
        return
    if question.about == "presence":
        inside = question.text.removeprefix("is there ").removesuffix("?").split(" ", 1)[1]
        assert question.answer == ("yes" if any(inside == f"{t.colour} {t.shape}" for t in scene.things) else "no")
    elif question.about == "background":
        assert question.answer == scene.background
    elif question.about == "colour":
        assert question.answer in {t.colour for t in scene.things if t.shape == question.text.split()[-1].strip("?")}
    elif question.about == "count":
        assert words.NUMBERS.index(question.answer) <= MOST


def test_wishes_are_said_in_plain_english_and_chinese():
    red, blue = Thing("circle", "red"), Thing("cross", "blue", "small")
    assert words.describe(Wish((red,))) == "a red circle"
    assert words.describe(Wish((blue,) * 3, None, "black")) == "three small blue crosses on a black background"
    assert words.describe(Wish((red, blue), "left of")) == "a red circle left of a small blue cross"
    assert words.describe(Wish((red, red, blue))) == "two red circles and a small blue cross"
    assert words.describe(Wish((Thing("star", "orange"),))) == "an orange star"
    assert words.chinese(Wish((red, blue), "above", "white")) == "一个红色的圆形在一个小蓝色的十字的上面，白色背景"


def test_captions_name_what_is_there():
    scene = Scene((Placed(Thing("ring", "pink", "big"), (2, 0)), Placed(Thing("star", "red", "big"), (0, 0))), "gray")
    assert caption(caption_order(scene)) == "a red star left of a pink ring on a gray background"


@settings(max_examples=60, deadline=None)
@given(rngs, st.sampled_from(list(RELATIONS)))
def test_related_things_share_a_row_or_a_column(rng, relation):
    scene = realise(Wish((Thing(), Thing()), relation), rng)
    (x1, y1), (x2, y2) = (p.cell for p in scene.placed)
    assert (np.sign(x1 - x2), np.sign(y1 - y2)) == RELATIONS[relation]


def test_intervals_hold_the_share_and_shrink_with_more_cases():
    low, high = wilson(90, 100)
    assert 0.82 < low < 0.9 < high < 0.95
    assert wilson(900, 1000)[0] > low
    assert wilson(0, 10)[0] == pytest.approx(0, abs=1e-9)


def test_paired_differences_see_what_changed_case_by_case():
    same = paired([1, 0, 1, 1] * 25, [1, 0, 1, 1] * 25)
    assert (same["difference"], same["low"], same["high"], same["changed"]) == (0, 0, 0, 0)
    better = paired([1] * 100, [1] * 80 + [0] * 20)
    assert better["difference"] == pytest.approx(0.2)
    assert better["low"] > 0.1


def test_what_is_left_of_a_scene_is_what_the_question_asks_for_and_never_nothing_nor_all():
    rng = random.Random(9)
    for _ in range(300):
        left = any_left(rng)
        gone = [placed for placed in left.before.placed if left.gone.fits(placed.thing)]
        assert gone
        assert len(left.after.placed) == len(left.before.placed) - len(gone) >= 1
        assert left.answer == words.NUMBERS[len(left.after.placed)]
        assert words.noun(left.gone, 2) in left.text
        assert words.noun(left.gone, 2) in left.plan


def test_the_scenes_that_are_scored_are_never_trained_on():
    assert all(scene_held_out(case.before) for case in score_left.cases(40))
    rng = random.Random(3)
    for _ in range(60):
        scenes = [part.scene for part in TASKS["left"](rng) if part.scene is not None]
        assert not any(map(scene_held_out, scenes))


def test_the_style_of_bagel_nano_says_what_it_was_taught():
    style = read_style(score_left.STYLE)
    assert style.system == DRAW_THEN_ANSWER
    assert style.turns.picture_tag == DRAW
    assert style.answer_in(answered("two")) == "two"

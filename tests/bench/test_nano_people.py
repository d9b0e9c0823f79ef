"""Pictures and sentences as people make them: that they are judged rightly, and that training never sees those kept."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from bench.nano import wording, words
from bench.nano.cases import (
    EDITED,
    PEOPLE,
    PER_CATEGORY,
    TRAINED,
    UNKNOWN,
    WRITTEN,
    all_cases,
)
from bench.nano.checker import look, shows
from bench.nano.forms import HANDS, varied
from bench.nano.people_cases import people_cases
from bench.nano.pictures import picture, received
from bench.nano.score import is_right
from bench.nano.shares import Shares
from bench.nano.tasks import CAPTION_QUESTION, TASKS, any_edit, unsaid, without_jpeg
from bench.nano.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    VISIBLE,
    Scene,
    Thing,
    Wish,
    colours_apart,
    random_scene,
    scene_held_out,
    with_thing,
    without,
)

TRIED, RIGHT = 150, 0.97
SHARES = Shares(pictures=0.7, sentences=0.7, unknown=0.3)


@pytest.fixture(scope="module")
def kept():
    return people_cases()


def drawn(count: int, hand: str) -> list[Scene]:
    rng = random.Random(hand)
    return [varied(random_scene(rng), rng, hand) for _ in range(count)]


@pytest.mark.parametrize("hand", HANDS)
def test_the_checker_is_right_on_pictures_that_are_not_drawn_plainly(hand):
    scenes = drawn(TRIED, hand)
    assert all(scene.manner for scene in scenes)
    assert sum(shows(look(np.asarray(picture(s)), True), s) for s in scenes) / TRIED >= RIGHT
    assert sum(shows(look(received(s), True), s) for s in scenes) / TRIED >= RIGHT


@pytest.mark.parametrize("wrong", ["colour", "shape", "missing", "ground", "place"])
def test_the_checker_rejects_such_a_picture_with_one_thing_wrong(wrong):
    scenes = drawn(80, "people")
    rejected = sum(not shows(look(received(spoilt(s, wrong)), True), s) for s in scenes)
    assert rejected / len(scenes) >= 0.95


def spoilt(scene: Scene, wrong: str) -> Scene:
    placed, rng = scene.placed[0], random.Random(wrong)
    if wrong == "missing":
        return without(scene, 0)
    if wrong == "ground":
        return max((scene.on(name) for name in BACKGROUNDS), key=lambda s: colours_apart(s.ground, scene.ground))
    if wrong == "place":
        moved = 8 if placed.centre[0] < 32 else -8
        return with_thing(scene, 0, replace(placed, dx=placed.dx + moved))
    if wrong == "colour":
        far = sorted(COLOURS, key=lambda c: colours_apart(COLOURS[c], placed.shade))[-3:]
        clear = [c for c in far if colours_apart(COLOURS[c], scene.ground) > VISIBLE]
        return with_thing(scene, 0, placed.recoloured(rng.choice(clear)))
    shape = rng.choice([s for s in SHAPES if s != placed.thing.shape])
    form = placed.form and replace(placed.form, line=None)
    return with_thing(scene, 0, replace(placed, thing=replace(placed.thing, shape=shape), form=form))


def test_an_edit_of_such_a_picture_counts_when_it_is_done_and_nothing_else_changed(kept):
    cases = [c for c in kept if c.category == EDITED][:100]
    done = [is_right(c, Image.fromarray(received(without_jpeg(c.edit.after))), None) for c in cases]
    undone = [is_right(c, Image.fromarray(received(c.edit.before)), None) for c in cases]
    assert sum(done) / len(cases) >= RIGHT
    assert sum(undone) / len(cases) <= 0.03


def test_each_kind_has_two_hundred_cases_and_the_same_each_time(kept):
    assert Counter(c.category for c in kept) == dict.fromkeys(PEOPLE, PER_CATEGORY)
    assert kept == people_cases()
    assert min(Counter(c.category for c in all_cases()).values()) >= PER_CATEGORY


def test_every_scene_that_is_asked_about_is_a_combination_kept_out_of_training(kept):
    assert all(scene_held_out(c.edit.before if c.edit else c.scene) for c in kept if c.wish is None)
    assert {c.edit.before.manner.hand for c in kept if c.category == EDITED} == {"people"}
    trained = [c.edit.before if c.edit else c.scene for c in people_cases(TRAINED) if c.wish is None]
    assert not any(map(scene_held_out, trained))
    assert {s.manner.hand for s in trained if s.manner} == {"varied"}


def test_no_sentence_and_no_picture_of_the_score_occurs_in_training(kept):
    rng = random.Random(5)
    parts = [part for name in TASKS for _ in range(1500) for part in TASKS[name](rng, SHARES)]
    said = {part.text for part in parts}
    assert not said & {c.prompt for c in kept if c.category != EDITED and "pictures" not in c.category}
    scenes = [part.scene for part in parts if part.scene]
    assert not any(map(scene_held_out, scenes))
    assert {s.manner.hand for s in scenes if s.manner} == {"varied"}


def test_words_that_it_is_asked_about_and_does_not_know_are_of_no_sentence_that_training_means():
    rng = random.Random(6)
    meant = {
        w for name in TASKS for _ in range(1500) for p in TASKS[name](rng, Shares(0, 0.7, 0)) for w in spelt(p.text)
    }
    unknown = {*wording.UNKNOWN, *wording.UNKNOWN_COLOURS}
    assert len(unknown) > 140
    assert meant & unknown == set()
    trained = {w for _ in range(3000) for p in TASKS["ask"](rng, Shares(0, 0, 1.0)) for w in spelt(p.text)}
    kept = {word for word in unknown if wording.word_held_out(word)}
    assert len(kept) > 20
    assert {w.removesuffix("s") for w in trained} & kept == set()


def spelt(text: str) -> list[str]:
    return "".join(c if c.isalpha() else " " for c in text.lower()).split()


def test_a_question_about_a_word_it_does_not_know_is_answered_so(kept):
    asked = [c for c in kept if c.category == UNKNOWN]
    assert {c.answer for c in asked} == {wording.NOT_KNOWN}
    assert all(any(map(wording.word_held_out, forms(c.prompt))) for c in asked)


def forms(text: str) -> list[str]:
    words_of = [w for w in spelt(text) if w.removesuffix("es") or w.removesuffix("s")]
    known = {*wording.UNKNOWN, *wording.UNKNOWN_COLOURS}
    return [w for word in words_of for w in (word, word[:-1], word[:-2]) if w in known]


@pytest.mark.parametrize(
    "plain",
    [
        "remove the red circle", "make the blue square green", "make the background white", "add a pink star",
        "move the ring to the left", "how many stars are there?", "what colour is the cross?", "is there a red ring?",
        "a red circle left of a blue square", "three green stars on a black background", "what is in this picture?",
        "一个红色的圆形", "how many shapes are left without the red shapes?",
    ],
)  # fmt: skip
def test_a_sentence_has_many_ways_to_be_written_of_which_training_says_some_and_the_score_others(plain):
    rng = random.Random(plain)
    kept, trained = ({wording.as_people(plain, rng, half) for _ in range(200)} - {plain} for half in (True, False))
    assert len(trained) >= 4
    assert len(kept) >= 1
    assert not kept & trained


def test_facts_survive_being_written_otherwise():
    rng = random.Random(7)
    said = [wording.as_people("two red circles on a gray background", rng, held_out=False).lower() for _ in range(200)]
    assert all(any(n in s for n in ("two", "2")) for s in said)
    assert all(any(c in s for c in ("red", "crimson")) for s in said)
    assert all(any(c in s for c in ("circle", "disc", "dot", "round shape")) for s in said)
    assert any("2" in s for s in said)
    assert any("crimson" in s for s in said)


def test_plain_training_is_what_it_was_before_there_was_anything_else():
    for name in TASKS:
        plain, none = (TASKS[name](random.Random(8), *shares) for shares in ((), (Shares(0.0, 0.0, 0.0),)))
        assert plain == none
        assert all(part.scene is None or part.scene.manner is None for part in plain)


def test_shares_are_kept():
    rng = random.Random(9)
    samples = [TASKS["edit"](rng, Shares(pictures=0.4)) for _ in range(400)]
    assert sum(s[0].scene.manner is not None for s in samples) / 400 == pytest.approx(0.4, abs=0.08)
    asked = [TASKS["ask"](rng, Shares(unknown=0.2)) for _ in range(800)]
    unknown = sum(s[-1].text == wording.NOT_KNOWN for s in asked)
    assert unknown / 800 == pytest.approx(0.8 * 0.2, abs=0.05)  # one in five is asked for a caption


def test_colours_are_left_unsaid_and_pictures_described_in_their_shares():
    rng, named = random.Random(11), set(COLOURS)
    all_unsaid = [TASKS["draw"](rng, Shares(unsaid=1.0))[0].text for _ in range(300)]
    said = [TASKS["draw"](rng)[0].text for _ in range(300)]
    bare = [
        sum(not named & set(text.split()) for text in texts if text.isascii()) / 300 for texts in (all_unsaid, said)
    ]
    assert bare[0] > 2 * bare[1]
    described = sum(TASKS["ask"](rng, Shares(captions=0.25))[1].text == CAPTION_QUESTION for _ in range(800))
    assert described / 800 == pytest.approx(0.2 + 0.8 * 0.25, abs=0.06)


def test_what_is_left_unsaid_still_tells_things_apart():
    blue, red = Thing("star", "blue"), Thing("star", "red", "big")
    assert unsaid(Wish((blue, red))) == Wish((blue, red))
    assert unsaid(Wish((red, Thing("ring", "red")), "above", "white")) == (
        Wish((Thing("star"), Thing("ring")), "above", "white")
    )
    assert unsaid(Wish((red,) * 3)) == Wish((Thing("star"),) * 3)


def test_what_is_drawn_after_an_edit_keeps_the_pictures_manner_but_no_trace_of_jpeg():
    rng, seen = random.Random(10), 0
    edits = (any_edit(rng, varied(random_scene(rng), rng, "varied")) for _ in range(400))
    for edit in islice((e for e in edits if e), 150):
        before, after = edit.before, without_jpeg(edit.after)
        assert after.manner is not None
        assert after.manner.quality is None
        assert (after.manner.side, after.manner.smooth) == (before.manner.side, before.manner.smooth)
        assert after.is_clear
        if edit.action in ("remove", "move"):
            assert after.ground == before.ground
            assert {p.shade for p in after.placed} <= {p.shade for p in before.placed}
        seen += before.manner.quality is not None
    assert seen > 20


def test_every_plain_thing_can_be_seen_on_every_ground():
    assert min(colours_apart(a, b) for a in COLOURS.values() for b in BACKGROUNDS.values()) >= VISIBLE


def test_a_prompt_as_people_write_it_asks_for_what_the_plain_one_asks_for(kept):
    prompts = [c for c in kept if c.category == WRITTEN]
    named = ("circle", "disc", "dot", "round shape", "square", "box", "triang", "star", "cross", "plus", "ring", "hoop")
    assert all(any(n in c.prompt.lower() for n in named) for c in prompts)
    assert all(words.describe(c.wish) != c.prompt for c in prompts)

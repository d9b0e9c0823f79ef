"""The checker on what a model draws: colours that run, things that touch, rings whose hole is small."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from bagel_rt.artefact.folders import BUNDLED
from bench.nano import eyes
from bench.nano.checker import look
from bench.nano.world import BACKGROUNDS, COLOURS

FINER = 8  # drawn so much larger, then made small: smooth edges


def seen(draw, ground: str = "white") -> list[tuple[str, str] | None]:
    """Shapes and colours found in a picture of 64 pixels that `draw` draws, in its pixels."""
    large = Image.new("RGB", (64 * FINER,) * 2, BACKGROUNDS[ground])
    draw(ImageDraw.Draw(large))
    found = look(np.asarray(large.resize((64, 64), Image.Resampling.BOX))).found
    return sorted((f.thing.shape, f.thing.colour) if f else None for f in found)


def circle(pen, x: float, y: float, radius: float, colour) -> None:
    pen.ellipse([FINER * v for v in (x - radius, y - radius, x + radius, y + radius)], colour)


@pytest.mark.parametrize(("left", "right"), [("orange", "yellow"), ("red", "orange"), ("purple", "blue")])
def test_a_thing_whose_colour_runs_from_one_name_to_the_next_is_one(left, right):
    image = np.full((64, 64, 3), BACKGROUNDS["white"], np.float32)
    rows, columns = np.indices((64, 64)) + 0.5
    way = np.clip((columns - 23) / 18, 0, 1)[..., None]
    shade = (1 - way) * np.array(COLOURS[left]) + way * np.array(COLOURS[right])
    inside = np.hypot(columns - 32, rows - 32) < 9
    image[inside] = shade[inside]
    (found,) = look(image.astype(np.uint8)).found
    assert found is not None
    assert (found.thing.shape, found.thing.colour in (left, right)) == ("circle", True)


@pytest.mark.parametrize(("left", "right"), [("orange", "yellow"), ("red", "orange"), ("purple", "yellow")])
@pytest.mark.parametrize("ground", ["white", "black"])
def test_two_things_that_touch_are_two(left, right, ground):
    def draw(pen):
        circle(pen, 20, 32, 9, COLOURS[left])
        circle(pen, 38, 32, 9, COLOURS[right])

    assert seen(draw, ground) == sorted([("circle", left), ("circle", right)])


@pytest.mark.parametrize("width", [1.0, 3.0])
def test_two_things_joined_by_a_bridge_are_two(width):
    def draw(pen):
        for x in (20, 40):
            circle(pen, x, 32, 9, COLOURS["pink"])
        pen.rectangle([FINER * v for v in (20, 32 - width / 2, 40, 32 + width / 2)], COLOURS["pink"])

    assert seen(draw) == [("circle", "pink")] * 2


def test_a_shapeless_thing_is_not_cut_into_shapes():
    def draw(pen):
        pen.rectangle([FINER * v for v in (10, 28, 54, 36)], COLOURS["pink"])

    assert seen(draw) == [None]


@pytest.mark.parametrize(("hole", "shape"), [(2.5, "ring"), (1.0, "circle")])
def test_a_circle_with_a_hole_that_one_sees_is_a_ring(hole, shape):
    def draw(pen):
        circle(pen, 32, 32, 9, COLOURS["blue"])
        circle(pen, 32, 32, hole, BACKGROUNDS["white"])

    assert seen(draw) == [(shape, "blue")]


def test_blurred_edges_are_no_colour_of_their_own():
    image = np.full((64, 64, 3), BACKGROUNDS["black"], np.float32)
    rows, columns = np.indices((64, 64)) + 0.5
    image[np.hypot(columns - 32, rows - 32) < 6.5] = COLOURS["yellow"]
    found = look(ndimage.gaussian_filter(image, (1.2, 1.2, 0)).astype(np.uint8)).found
    assert [f.thing.colour for f in found if f] == ["yellow"]


def test_where_eye_and_checker_differ_is_told_by_case():
    marks = [("counting 1", True, True), ("counting 2", True, False), ("edits 3", False, True)]
    assert eyes.summary(marks) == {
        "pictures": 3,
        "right by eye": 2,
        "right, called wrong": ["counting 2"],
        "wrong, called right": ["edits 3"],
    }


@pytest.mark.bench
def test_the_checker_reads_the_bundled_models_pictures_as_a_person_did():
    found = eyes.summary(eyes.judged(eyes.Model(BUNDLED), eyes.EYES["then"]))
    assert found["pictures"] == 119
    assert len(found["right, called wrong"]) <= 2
    assert found["wrong, called right"] == []

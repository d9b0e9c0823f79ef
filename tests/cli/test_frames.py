"""`bagel-rt frames`: each finished picture becomes the next one's input."""

from __future__ import annotations

import numpy as np
import pytest
from calls import instead, run
from PIL import Image, ImageColor, ImageSequence

from bagel_rt.cli.frames import _animate
from bagel_rt.results import ImageResult

FRAMES = ["--prompt", "turn left", "--seed", "4", "--num-timesteps", "3", "--backend", "onnxruntime"]


@pytest.fixture
def photo_file(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_frames_are_a_chain_of_edits_and_an_animation(capsys, model, small_bagel, photo, photo_file, tmp_path):
    out = tmp_path / "frames"
    given = ["--image", photo_file, "--count", "3", "--duration", "120", "--out", out]
    code, text, _ = run(capsys, "frames", *given, *FRAMES)
    assert (code, text) == (0, f"{out}: 3 frames and frames.webp, seeds 4 to 6\n")
    assert sorted(p.name for p in out.iterdir()) == ["frame-001.png", "frame-002.png", "frame-003.png", "frames.webp"]
    before = photo
    for number in (1, 2, 3):
        before = small_bagel.edit(before, "turn left", seed=3 + number, num_timesteps=3).image
        assert np.array_equal(np.asarray(Image.open(out / f"frame-{number:03}.png")), np.asarray(before))
    with Image.open(out / "frames.webp") as animation:
        assert (animation.n_frames, animation.size) == (4, before.size)
        animation.load()
        assert animation.info["duration"] == 120


def test_an_animation_shows_the_pictures_in_their_order_each_for_the_duration(tmp_path):
    colours = ["red", "lime", "blue", "yellow"]
    first, *later = [Image.new("RGB", (48, 32), colour) for colour in colours]
    results = [ImageResult(picture, None, np.zeros((1, 64), np.float32), 1, {}) for picture in later]
    _animate(first.resize((24, 16)), results, tmp_path / "frames.webp", 120)
    with Image.open(tmp_path / "frames.webp") as animation:
        assert animation.info["loop"] == 0
        seen = [
            (frame.convert("RGB").getpixel((24, 16)), frame.info["duration"])
            for frame in ImageSequence.Iterator(animation)
        ]
    assert [duration for _, duration in seen] == [120] * 4
    for (colour, _), wanted in zip(seen, colours, strict=True):
        assert np.abs(np.subtract(colour, ImageColor.getrgb(wanted))).max() < 30, wanted


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--count", "0"], "count is 0"),
        (["--count", "2", "--duration", "0"], "duration is 0"),
        (["--count", "2", "--num-timesteps", "1"], "num_timesteps is 1"),
        (["--count", "2", "--preset", "wise"], "preset wise is for generate"),
        (["--count", "2", "--image", "no.png"], "no.png: no such image file"),
        (["--count", "2", "--out", "{tmp}/no/frames"], "no such folder"),
        (["--count", "2", "--out", "{tmp}/photo.png"], "is not a folder"),
    ],
)
def test_bad_input_leaves_nothing(capsys, model, photo_file, tmp_path, arguments, message):
    given = [a.format(tmp=tmp_path) for a in arguments]
    usual = ["--image", photo_file, "--out", tmp_path / "frames", *FRAMES]
    code, _, err = run(capsys, "frames", *instead(usual, given))
    assert code == 2
    assert message in err
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_a_folder_with_frames_is_not_written_over(capsys, model, photo_file, tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "frame-001.png").write_bytes(b"mine")
    given = ["--image", photo_file, "--count", "1", "--out", tmp_path / "frames", *FRAMES]
    code, _, err = run(capsys, "frames", *given)
    assert (code, "holds frames already" in err) == (2, True)
    assert (tmp_path / "frames" / "frame-001.png").read_bytes() == b"mine"

"""Where results go is settled before the work; nothing is lost, overwritten or left half-done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from calls import run

from bagel_rt.results import read_metadata

SMALL = ["--height", "64", "--width", "64", "--num-timesteps", "3", "--seed", "1", "--backend", "onnxruntime"]
LONG = "n" * 240
COMMANDS = {
    "generate": ["generate", "--prompt", "a", "--out", "{}.png"],
    "generate, several": ["generate", "--prompt", "a", "--images", "2", "--out", "{}.png"],
    "edit": ["edit", "--prompt", "a", "--image", "photo.png", "--out", "{}.png"],
    "frames": ["frames", "--prompt", "a", "--image", "photo.png", "--count", "2", "--out", "{}"],
    "demo": ["demo", "--out", "{}"],
    "verify": ["verify", "--json", "{}"],
    "export": ["export", "--ckpt", "no checkpoint is read", "--precision", "small", "--out", "{}"],
}


@pytest.fixture
def no_model(monkeypatch, photo, tmp_path):
    """An empty folder with a photo, and commands that may not load a model."""
    monkeypatch.chdir(tmp_path)
    photo.save("photo.png")
    monkeypatch.setattr("bagel_rt.api.load", lambda *_, **__: pytest.fail("a model is loaded"))


@pytest.mark.parametrize("place", [LONG, "no/a", "photo.png/a", "/proc/a"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_target_that_cannot_be_written_is_found_before_a_model_is_loaded(capsys, no_model, command, place):
    code, _, err = run(capsys, *(word.format(place) for word in COMMANDS[command]))
    assert code == 2
    assert err.startswith("bagel-rt: error: ")
    assert os.listdir() == ["photo.png"]


WRONG = {
    "a picture that is not there": (["edit", "--prompt", "a", "--image", "no.png"], "no.png: no such image file"),
    "a question about none": (["ask", "--prompt", "a", "--image", "no.png"], "no.png: no such image file"),
    "what is no picture": (["ask", "--prompt", "a", "--image", "words.txt"], "words.txt: not a readable image: "),
    "a size that cannot be drawn": (["generate", "--prompt", "a", "--height", "65"], "the nearest is height 64"),
    "frames of such a size": (
        ["frames", "--prompt", "a", "--image", "photo.png", "--count", "2", "--width", "65"],
        "the nearest is height 64",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_input_that_cannot_be_used_is_found_before_a_model_is_loaded(capsys, no_model, wrong):
    command, said = WRONG[wrong]
    Path("words.txt").write_text("words")
    code, _, err = run(capsys, *command)
    assert (code, said in err, "<" in err) == (2, True, False), err


def test_a_current_folder_that_cannot_be_written_is_found_where_no_file_is_named(capsys, no_model, monkeypatch):
    monkeypatch.chdir("/proc")
    code, _, err = run(capsys, "generate", "--prompt", "a")
    assert (code, "bagel-1.png: cannot be written" in err) == (2, True)


def test_commands_at_once_in_one_folder_write_a_file_each(model, tmp_path):
    given = ["generate", "--prompt", "a", "--height", "64", "--width", "64", "--num-timesteps", "3", "--seed"]
    command = [sys.executable, "-m", "bagel_rt.cli", *given]
    jobs = [subprocess.Popen([*command, str(seed)], cwd=tmp_path) for seed in (1, 2, 3)]
    assert [job.wait(300) for job in jobs] == [0, 0, 0]
    found = {path.name: read_metadata(path)["seed"] for path in tmp_path.iterdir()}
    assert sorted(found) == ["bagel-1.png", "bagel-2.png", "bagel-3.png"]
    assert sorted(found.values()) == [1, 2, 3]


def test_a_name_that_was_taken_while_drawing_is_left_alone(capsys, model, tmp_path, monkeypatch):
    from bagel_rt.cli import pictures

    monkeypatch.chdir(tmp_path)
    show = pictures.show

    def slow(*arguments):
        Path("bagel-1.png").write_bytes(b"another's")
        return show(*arguments)

    monkeypatch.setattr(pictures, "show", slow)
    code, out, _ = run(capsys, "generate", "--prompt", "a", "--images", "2", *SMALL)
    assert (code, [line.split(":")[0] for line in out.splitlines()]) == (0, ["bagel-2.png", "bagel-3.png"])
    assert Path("bagel-1.png").read_bytes() == b"another's"


def test_a_jpeg_keeps_its_settings_and_a_bmp_is_said_to_keep_none(capsys, model, tmp_path):
    for name in ("a.jpg", "a.webp"):
        code, _, err = run(capsys, "generate", "--prompt", "a tree", "--out", tmp_path / name, *SMALL)
        assert (code, "keeps no settings" in err) == (0, False)
        assert json.loads(run(capsys, "info", "--json", tmp_path / name)[1])["prompt"] == "a tree"
    code, _, err = run(capsys, "generate", "--prompt", "a tree", "--out", tmp_path / "a.bmp", *SMALL)
    assert code == 0
    assert err.count("a.bmp: BMP keeps no settings; PNG, JPEG, WEBP, TIFF do") == 1


def test_an_animation_says_how_it_was_made(capsys, model, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    given = ["--image", tmp_path / "photo.png", "--prompt", "turn", "--count", "2", "--out", tmp_path / "f"]
    assert run(capsys, "frames", *given, "--num-timesteps", "2", "--seed", "4", "--backend", "onnxruntime")[0] == 0
    record = read_metadata(tmp_path / "f" / "frames.webp")
    assert (record["prompt"], record["seed"], record["frames"]) == ("turn", 4, 2)


def test_a_folder_given_as_a_picture_is_called_a_folder(capsys, no_model):
    Path("pictures").mkdir()
    code, _, err = run(capsys, "frames", "--prompt", "a", "--count", "1", "--image", "pictures", "--out", "f")
    assert (code, "pictures: is a folder" in err) == (2, True)


def test_a_tilde_that_no_shell_expanded_is_the_home_folder(capsys, model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert run(capsys, "generate", "--prompt", "a", "--out=~/a.png", *SMALL)[0] == 0
    code, _, _ = run(capsys, "edit", "--prompt", "b", "--image=~/a.png", "--out=~/b.png", *SMALL)
    assert (code, (tmp_path / "b.png").is_file()) == (0, True)

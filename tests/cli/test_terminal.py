"""A terminal or pipe that is not UTF-8 loses characters, never work."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

WAYS = {
    "cp1252": ([], {"PYTHONIOENCODING": "cp1252"}),
    "ascii": ([], {"PYTHONIOENCODING": "ascii"}),
    "strict ascii": ([], {"PYTHONIOENCODING": "ascii:strict"}),
    "no UTF-8 mode": (["-X", "utf8=0"], {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_was_made_is_there_and_what_cannot_be_shown_is_escaped(model, tmp_path, way):
    options, more = WAYS[way]
    run = [sys.executable, *options, "-m", "bagel_rt.cli"]
    how = {"cwd": tmp_path, "env": {**os.environ, **more}, "capture_output": True}
    small = ["--height", "64", "--width", "64", "--num-timesteps", "2", "--seed", "1"]
    prompt = "红色 \U0001f600"  # arguments that are no characters of the terminal's are read as UTF-8
    drawn = subprocess.run([*run, "generate", "--prompt", prompt, "--out", "图.png", *small], **how)
    assert (drawn.returncode, os.listdir(tmp_path)) == (0, ["图.png"]), drawn.stderr
    assert drawn.stdout.decode("ascii").endswith(".png: 64x64, seed 1\n")
    shown = subprocess.run([*run, "info", "图.png"], **how)
    assert (shown.returncode, b"seed     1" in shown.stdout) == (0, True), shown.stderr
    shown = subprocess.run([*run, "info", "--json", "图.png"], **how)
    assert json.loads(shown.stdout.decode("ascii"))["prompt"] == prompt
    missing = subprocess.run([*run, "info", "图图.png"], **how)
    assert (missing.returncode, b"Traceback" in missing.stderr) == (2, False)


def test_bytes_that_are_no_characters_are_a_mistake_of_one_line_of_a_chat(model, tmp_path):
    typed = b"/image \xff\xfe.png\n\xff\xfe\n/undo\n"
    run = [sys.executable, "-X", "utf8=1", "-m", "bagel_rt.cli", "chat"]
    done = subprocess.run(run, input=typed, capture_output=True, cwd=tmp_path)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert [line.count(b"error") for line in done.stderr.splitlines()[-3:]] == [1, 1, 1]


def test_a_text_of_another_character_set_is_read_as_utf_8_or_refused(monkeypatch):
    from bagel_rt.cli.terminal import words
    from bagel_rt.errors import InputError

    assert words("红色") == "红色"
    as_ascii = "红色 1".encode().decode("ascii", "surrogateescape")
    assert words(as_ascii, "ascii") == "红色 1"
    latin = "é".encode("latin-1").decode("ascii", "surrogateescape")
    with pytest.raises(InputError, match="neither ascii nor UTF-8"):
        words(latin, "ascii")


def test_the_prompt_in_a_pictures_record_is_the_one_that_was_typed_in_any_locale(model, tmp_path):
    from bagel_rt.results import read_metadata

    options, more = WAYS["no UTF-8 mode"]
    run = [sys.executable, *options, "-m", "bagel_rt.cli", "generate", "--prompt", "红色的圆", "--out", "a.png"]
    small = ["--height", "64", "--width", "64", "--num-timesteps", "2", "--seed", "1"]
    made = subprocess.run([*run, *small], cwd=tmp_path, env={**os.environ, **more}, capture_output=True)
    assert made.returncode == 0, made.stderr
    assert read_metadata(tmp_path / "a.png")["prompt"] == "红色的圆"

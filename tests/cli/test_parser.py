"""Mistakes on the command line: answered in the name of what was typed, in three lines at most, and nothing is done."""

from __future__ import annotations

import io
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from calls import FAST, run
from PIL import Image

import bagel_rt
from bagel_rt.cli import build_parser
from bagel_rt.cli.parser import Parser

SMALL = ["--height", "64", "--width", "64", "--num-timesteps", "3", "--seed", "1", "--backend", "onnxruntime"]


def every_command() -> dict[str, Parser]:
    (action,) = (one for one in build_parser()._actions if isinstance(one.choices, dict))
    return action.choices


@pytest.mark.parametrize("command", every_command())
def test_every_command_refuses_abbreviations_and_options_given_twice(capsys, command):
    parser = every_command()[command]
    for name, action in parser._option_string_actions.items():
        if not name.startswith("--") or name == "--help":
            continue
        values = [] if action.nargs == 0 else ["1"] * (action.nargs if isinstance(action.nargs, int) else 1)
        if type(action).__name__ != "_AppendAction":
            code, _, err = run(capsys, command, name, *values, name, *values)
            assert (code, err.count("\n")) == (2, 2), err
            assert re.search(rf"{name}\b.* is given twice", err)
        short = name[:-1]
        if short != "--" and short not in parser._option_string_actions:
            code, _, err = run(capsys, command, short, *values)
            assert code == 2
            assert f"unknown option {short}; did you mean --" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["generate", "--image", "2"], "unknown option --image; did you mean --images?"),
        (["generate", "--neg", "blue"], "unknown option --neg; did you mean --negative-prompt?"),
        (["generate", "--promt=a"], "unknown option --promt; did you mean --prompt?"),
        (["generate", "--frobnicate"], "unknown option --frobnicate\n"),
        (["generate", "--prompt", "a", "b"], "unknown argument 'b'"),
        (["generate", "--prompt", "a", "--think", "--no-think"], "--think or --no-think is given twice"),
        (["ask", "--max-tok", "2"], "unknown option --max-tok; did you mean --max-tokens?"),
        (["ask", "--prompt", "a", "--max-tokens", "two"], "argument --max-tokens: invalid int value"),
        (["edit", "--prompt", "a"], "required: --image"),
    ],
)
def test_a_mistake_is_answered_with_the_commands_own_usage_in_three_lines(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith(f"usage: bagel-rt {arguments[0]} ")
    assert err.count("\n") <= 3


def test_what_follows_two_dashes_or_holds_a_space_is_no_option(capsys, model, tmp_path):
    given = ["--prompt", "--two words, twice --two words", "--out", tmp_path / "a.png", *SMALL]
    assert run(capsys, "generate", *given)[0] == 0
    assert run(capsys, "info", "--json", "--", model)[0] == 0


def test_edit_uses_every_image_it_is_given(capsys, model, tmp_path, small_bagel):
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{colour}.png")
    images = [tmp_path / "red.png", tmp_path / "blue.png"]
    given = [word for image in images for word in ("--image", image)]
    code, _, _ = run(capsys, "edit", *given, "--prompt", "x", "--out", tmp_path / "out.png", *SMALL)
    assert code == 0
    wanted = small_bagel.edit(images, "x", seed=1, **FAST)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(wanted.image))


@pytest.mark.parametrize("arguments", [["--version"], ["doctor", "--help"]])
def test_the_package_itself_is_the_command_line(arguments):
    said = [
        subprocess.run([sys.executable, "-m", name, *arguments], capture_output=True, text=True, check=True).stdout
        for name in ("bagel_rt", "bagel_rt.cli")
    ]
    assert said[0] == said[1]
    assert "bagel-rt" in said[0]


@pytest.mark.parametrize(
    "typed, offered, withheld",
    [
        ("bagel-rt gen", {"generate"}, {"edit"}),
        ("bagel-rt generate --cfg-text", {"--cfg-text-scale"}, {"--prompt"}),
        ("bagel-rt ask --max", {"--max-tokens", "--max-memory"}, {"--max-think-tokens"}),
    ],
)
def test_a_shell_completes_commands_and_options(tmp_path, typed, offered, withheld):
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "offered"),
        "COMP_LINE": typed,
        "COMP_POINT": str(len(typed)),
    }
    subprocess.run([sys.executable, "-m", "bagel_rt"], env={**os.environ, **asked}, check=True, capture_output=True)
    found = {word.strip() for word in (tmp_path / "offered").read_text().split("\n")}
    assert offered <= found
    assert not withheld & found


def test_results_and_events_print_as_one_line_and_results_pickle(small_bagel, capsys):
    events = list(small_bagel.stream("a\nb" * 99, seed=1, images=2, **FAST))
    text = list(small_bagel.stream("a", "text", max_tokens=4))
    printed = [*events, *text, events[-1].result[0]]
    for one in printed:
        print(one)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(printed)
    assert max(map(len, lines)) < 200
    assert lines[0] == "Step(1 of 2, t=0.75, grid 4x4)"
    picture = events[-1].result[0]
    assert repr(picture).startswith("ImageResult(64x64, seed 1, 'a\\nba")
    assert str(text[-1].result) == text[-1].result.text
    again = pickle.loads(pickle.dumps(picture))
    assert (again.options, again.prompt) == (picture.options, picture.prompt)
    assert np.array_equal(again.image, picture.image)
    assert np.array_equal(again.latent, picture.latent)
    assert pickle.loads(pickle.dumps(text[-1].result)) == text[-1].result


def test_a_notebook_shows_the_picture(small_bagel):
    picture = small_bagel.generate("a", seed=1, **FAST)
    shown = Image.open(io.BytesIO(picture._repr_png_()))
    assert shown.format == "PNG"
    assert np.array_equal(np.asarray(shown), np.asarray(picture.image))
    assert bagel_rt.ImageResult.__doc__


def test_a_mistyped_command_gets_the_nearest_one(capsys):
    code, _, err = run(capsys, "genrate", "--prompt", "a")
    assert (code, "unknown command 'genrate'; did you mean generate?" in err) == (2, True), err
    code, _, err = run(capsys, "xyzzy")
    assert (code, "choose from" in err) == (2, True), err


@pytest.mark.parametrize(
    "arguments", [["generate", "--prompt", "a", "--model", "a" * 10000], ["batch", "a" * 10000, "--out", "b"]]
)
def test_a_name_that_is_too_long_is_refused_and_shown_cut(capsys, arguments):
    code, _, err = run(capsys, *arguments)
    assert (code, "too long" in err) == (2, True), err
    assert len(err) < 1000

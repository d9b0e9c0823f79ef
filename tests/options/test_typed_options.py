"""What editors, type checkers, help() and documents know of the options: one declaration each, the same everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from calls import run

import bagel_rt
from bagel_rt.options import defaults
from bagel_rt.options.fields import explained, options_of
from bagel_rt.options.image_options import STEP_CACHES, ImageKeywords, ImageOptions, ImageTurnKeywords
from bagel_rt.options.text_options import TextKeywords, TextOptions, TextTurnKeywords
from bagel_rt.sampling.guidance import RENORM_TYPES, RULES
from bagel_rt.sampling.solvers import SOLVERS

KEYWORDS = [  # of a call or a turn, the class they stand for, and what is given another way
    (ImageKeywords, ImageOptions, {"seed"}),
    (ImageTurnKeywords, ImageOptions, {"seed", "vae_seed", "system", "adapter"}),
    (TextKeywords, TextOptions, set()),
    (TextTurnKeywords, TextOptions, {"seed", "think", "system", "adapter"}),
]
CALLS = [
    (bagel_rt.Bagel.generate, defaults.GENERATE),
    (bagel_rt.Bagel.edit, defaults.EDIT),
    (bagel_rt.Bagel.ask, defaults.ANSWER),
    (bagel_rt.Bagel.interleave, defaults.INTERLEAVE),
    (bagel_rt.Bagel.interleave, defaults.ANSWER),
    (bagel_rt.Bagel.stream, defaults.INTERLEAVE),
    (bagel_rt.Session.generate_image, defaults.INTERLEAVE),
    (bagel_rt.Session.generate_text, defaults.ANSWER),
]


@pytest.mark.parametrize("keywords, options, elsewhere", KEYWORDS)
def test_keywords_have_the_names_and_types_of_the_options(keywords, options, elsewhere):
    wanted = {name: hint for name, hint in get_type_hints(options).items() if name not in elsewhere}
    assert get_type_hints(keywords) == wanted
    assert keywords.__required_keys__ == frozenset()


@pytest.mark.parametrize("keywords, options, elsewhere", KEYWORDS)
def test_keywords_are_documented_with_the_defaults_of_the_options(keywords, options, elsewhere):
    assert explained(options(), tuple(elsewhere)) in keywords.__doc__


def test_what_a_type_allows_is_what_a_check_allows():
    hints = get_type_hints(ImageOptions)
    assert get_args(hints["cfg_renorm_type"]) == RENORM_TYPES
    assert get_args(get_args(hints["step_cache"])[0]) == STEP_CACHES
    assert get_args(hints["cfg_rule"]) == RULES
    assert get_args(hints["solver"]) == tuple(SOLVERS)


@pytest.mark.parametrize("options", [ImageOptions, TextOptions])
def test_every_option_says_what_it_does_and_is_checked(options):
    for one in fields(options):
        assert len(one.metadata["text"]) > 10, one.name
        assert one.metadata["check"](one.name, one.default) == one.default
    assert explained(options()) in options.__doc__


@pytest.mark.parametrize("call, options", CALLS)
def test_help_shows_every_option_of_a_call_with_its_default_there(call, options):
    given_elsewhere = {"seed", "vae_seed", "think", "system", "adapter"} if "Session" in call.__qualname__ else set()
    text = " ".join(call.__doc__.split())
    for one in options_of(options):
        if one.name not in given_elsewhere:
            words = f"{one.name} ({one.type}, default {one.default!r}): {one.text}"
            assert " ".join(words.split()) in text, one.name


@pytest.mark.parametrize(
    "command, options", [("generate", defaults.GENERATE), ("edit", defaults.EDIT), ("ask", defaults.ANSWER)]
)
def test_the_command_lines_help_has_the_same_texts(capsys, command, options):
    _, out, _ = run(capsys, command, "--help")
    text = " ".join(out.split())
    for one in options_of(options):
        if one.on_command_line and not (one.images and command == "generate"):
            assert f"--{one.name.replace('_', '-')}" in text
            assert one.text in text
    assert "--noise" not in text


SNIPPET = """\
import bagel_rt
from bagel_rt import ImageResult, TextResult

bagel = bagel_rt.load("bagel-nano")
one: ImageResult = bagel.generate("a", seed=1, num_timesteps=3, cfg_interval=(0.4, 1.0), step_cache="taylorseer")
several: list[ImageResult] = bagel.generate("a", seed=[1, 2], think=True)
edited: ImageResult = bagel.edit(["a.png", "b.png"], "x", vae_seed=3, preset="gedit", on_progress=print)
answer: TextResult = bagel.ask("a", top_k=3, seed=1)
read: TextResult = bagel.interleave(["a"], "text", max_tokens=3)
drawn: ImageResult = bagel.interleave(["a"], cfg_img_scale=2)
events = bagel.stream(["a"], "text", top_p=0.5)
events = bagel.stream("a", images=2)
with bagel.session(seed=1, think="image") as session:
    session.generate_image(height=64)
    session.generate_text(do_sample=True, top_k=3)
    session.generate_image(seed=3)  # wrong
    session.stream_text(height=3)  # wrong
bagel.generate("a", num_timestep=3)  # wrong
bagel.generate("a", num_timesteps="3")  # wrong
bagel.generate("a", cfg_renorm_type="local")  # wrong
bagel.generate("a", max_tokens=3)  # wrong
bagel.edit("a.png", "x", cfg_interval=0.4)  # wrong
bagel.ask("a", num_timesteps=3)  # wrong
bagel.interleave(["a"], "text", height=3)  # wrong
bagel.interleave(["a"], "video")  # wrong
bagel.stream(["a"], top_k=3)  # wrong
"""


def test_pyright_refuses_exactly_the_wrong_lines(tmp_path):
    (tmp_path / "snippet.py").write_text(SNIPPET)
    root = Path(bagel_rt.__file__).parent.parent
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(root), str(root / "engines")]}))
    pyright = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    done = subprocess.run(pyright, capture_output=True, text=True)
    refused = {found["range"]["start"]["line"] for found in json.loads(done.stdout)["generalDiagnostics"]}
    assert refused == {number for number, line in enumerate(SNIPPET.splitlines()) if line.endswith("# wrong")}

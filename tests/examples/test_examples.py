"""Every script in examples/ runs as it is, with bagel-nano, and makes what its docstring says."""

from __future__ import annotations

import io
import runpy
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from bagel_rt.options import presets
from bagel_rt.results import read_metadata

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch, tmp_path, capsys) -> Run:
    """Runs an example by name in a folder of its own and returns what it printed. Pictures get few steps."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str, steps: int = 10) -> str:
        for task in (presets.GENERATE, presets.EDIT, presets.INTERLEAVE):
            monkeypatch.setitem(presets.KINDS, task, replace(presets.KINDS[task], num_timesteps=steps + 1))
        monkeypatch.setattr("sys.argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def test_a_batch_draws_a_picture_for_every_line_of_a_file(run):
    Path("prompts.txt").write_text("a red ring\n\na blue square\n")
    printed = run("batch_of_prompts", "prompts.txt")
    assert [read_metadata(f"0{n}.png")["prompt"] for n in (1, 2)] == ["a red ring", "a blue square"]
    assert "02.png  a blue square" in printed
    assert not Path("03.png").exists()


def test_previews_come_nearer_to_the_finished_picture(run):
    printed = run("preview_while_drawing", "a red ring", steps=20)
    far, near = (np.abs(pixels(f"preview-{n}.png") - pixels("finished.png")).mean() for n in (10, 20))
    assert near < far
    assert near < 3  # the last step is the picture, decoded again
    assert "step 20 of 20, time 0.00" in printed


def test_five_edits_read_the_image_once(run):
    Image.new("RGB", (64, 64), (255, 255, 255)).save("white.png")
    printed = run("five_edits_of_one_image", "white.png")
    assert "ViT calls for 5 edits: 1" in printed
    edits = [pixels(f"edit-{n}.png") for n in range(1, 6)]
    assert all((a != b).any() for a, b in pairwise(edits))


def test_a_question_about_two_images_is_answered(run):
    printed = run("ask_about_images").splitlines()
    assert printed[0] == "what colour is the square? (about 2 images)"
    assert printed[1] == "blue"


def test_a_chat_reads_draws_and_goes_on_after_a_mistake(run, monkeypatch):
    Image.new("RGB", (64, 64), (255, 255, 255)).save("white.png")
    lines = "/image white.png\n/image none.png\n\na red ring\n/draw\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    printed = run("chat_loop").splitlines()
    assert printed[0].startswith("none.png: no such image")
    assert printed[-1] == "drawn-1.png"
    assert pixels("drawn-1.png").shape == (64, 64, 3)


def test_the_web_server_returns_pictures_and_names_what_is_wrong():
    app = runpy.run_path(str(EXAMPLES / "web_server.py"), run_name="web_server")["app"]
    with TestClient(app) as client:
        answer = client.get("/picture", params={"prompt": "a blue square", "seed": 1})
        refused = client.get("/picture", params={"prompt": "a blue square", "seed": 10**400})
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
    assert refused.status_code == 422
    assert "seed" in refused.json()["detail"]


def test_threads_share_a_model(run):
    printed = run("threads")
    assert "an answer blue" in printed
    assert [read_metadata(f"thread-{n}.png")["seed"] for n in (1, 2)] == [1, 2]


def test_of_many_seeds_the_best_are_finished_and_the_others_cancelled(run):
    printed = run("best_of_many_seeds", "a red ring").splitlines()
    scores = [float(line.split("score ")[1].split(",")[0]) for line in printed]
    assert scores == sorted(scores, reverse=True)
    finished = [line.split(", ")[1] for line in printed if "cancelled" not in line]
    assert sorted(finished) == sorted(path.name for path in Path().glob("best-*.png"))
    assert len(finished) == 2
    assert len(printed) == 6


def test_frames_become_an_animation(run):
    Image.new("RGB", (64, 64), (255, 255, 255)).save("white.png")
    run("frames_to_webp", "white.png", "add a red circle")
    with Image.open("frames.webp") as animation:
        assert animation.n_frames == 5
        assert animation.size == (64, 64)


def test_the_settings_of_a_png_draw_the_same_picture(run):
    printed = run("settings_from_png")
    assert "first.png: 'a green ring above a red square', seed 7, drawn by bagel-nano" in printed
    assert "again.png is the same picture" in printed
    assert (pixels("first.png") == pixels("again.png")).all()


def test_every_example_is_in_the_readme_and_has_a_test():
    readme, tests = (EXAMPLES / "README.md").read_text(), Path(__file__).read_text()
    assert len(SCRIPTS) == 10
    for script in SCRIPTS:
        assert f"[{script.name}]({script.name})" in readme
        assert f'"{script.stem}"' in tests or f'"{script.name}"' in tests

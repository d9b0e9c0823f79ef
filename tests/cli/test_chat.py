"""`bagel-rt chat` as somebody types it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from calls import instead, run
from PIL import Image

OPTIONS = ["--height", "64", "--width", "64", "--num-timesteps", "3", "--max-tokens", "8", "--backend", "onnxruntime"]


@pytest.fixture
def chat(capsys, model, tmp_path, monkeypatch):
    """A function: lines typed -> (code, out, err), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def typed(*lines: str, options: tuple[str, ...] = ()):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return run(capsys, "chat", "--seed", "7", *instead(OPTIONS, options))

    return typed


def answer(session, text: str) -> str:
    session.add_text(text)
    return session.generate_text(max_tokens=8).text


def test_a_chat_is_a_session(chat, small_bagel, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    code, out, err = chat("hello", "/image photo.png", "what is it?", "/draw in red", "and now?")
    with small_bagel.session(seed=7) as session:
        said = [answer(session, "hello")]
        session.add_image(photo)
        said.append(answer(session, "what is it?"))
        session.add_text("in red")
        drawn = session.generate_image(height=64, width=64, num_timesteps=3)
        said += ["bagel-1.png: 64x64", answer(session, "and now?")]
    assert (code, out) == (0, "\n".join(said) + "\n")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "bagel-1.png")), np.asarray(drawn.image))
    assert "/help lists the commands" in err


def test_undo_takes_the_last_thing_back(chat):
    _, once, _ = chat("hello", "/draw", "tell me")
    _, twice, _ = chat("hello", "/draw", "something else", "/undo", "tell me")
    assert once.splitlines()[-1] == twice.splitlines()[-1]
    code, _, err = chat("/undo", "hello", "/undo", "/undo")
    assert code == 0
    assert err.count("nothing was said that could be taken back") == 2


def test_undo_takes_a_picture_back_too(chat):
    _, _, err = chat("/draw a", "/undo", "/save a.png")
    assert "no picture was drawn yet" in err


def test_save_writes_the_last_picture_with_its_record(chat, tmp_path):
    from bagel_rt.results import read_metadata

    code, out, _ = chat("/draw a cube", "/save cube.png")
    assert (code, out) == (0, "bagel-1.png: 64x64\ncube.png: 64x64\n")
    assert (tmp_path / "cube.png").read_bytes() == (tmp_path / "bagel-1.png").read_bytes()
    assert read_metadata(tmp_path / "cube.png")["prompt"] == "a cube"


def test_a_mistake_is_one_line_and_the_chat_goes_on_as_if_it_was_not_said(chat, tmp_path):
    wrong = ["/image no.png", "/draw", "/save", "/save a.xyz", "/paint", "word " * 3000]
    code, out, err = chat(*wrong, "hello")
    assert (code, out) == (0, chat("hello")[1])
    lines = [line for line in err.splitlines() if "error" in line]
    messages = [
        "no.png: no such image",
        "nothing was said",
        "needs a file name",
        "no picture",
        "no such command",
        "max_p",
    ]
    assert [message in line for line, message in zip(lines, messages, strict=True)] == [True] * 6
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_a_turn_and_undoes_it(chat, monkeypatch):
    from bagel_rt.cli import chat as module

    real, times = module.show, []

    def interrupted(events, *more):
        times.append(1)
        if len(times) == 2:
            next(events)
            events.close()
            raise KeyboardInterrupt
        return real(events, *more)

    monkeypatch.setattr(module, "show", interrupted)
    code, out, err = chat("hello", "never mind", "tell me")
    monkeypatch.setattr(module, "show", real)
    assert "stopped; nothing of it stays" in err
    assert (code, out) == (0, chat("hello", "tell me")[1])


def test_quit_and_help(chat):
    code, out, _ = chat("/help", "/quit", "hello")
    assert code == 0
    assert "/image FILE" in out
    assert out.endswith("what is being written or drawn)\n")


def test_bad_options_are_refused_before_the_first_line(chat):
    code, _, err = chat("hello", options=("--num-timesteps", "1"))
    assert (code, "num_timesteps is 1" in err) == (2, True)
    code, _, err = chat("hello", options=("--think", "loud"))
    assert code == 2


def test_paths_are_read_as_they_are_typed_or_dropped(chat, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("my photo.png", "it's me.png"):
        photo.save(tmp_path / name)
    typed = ["my photo.png", "it's me.png", "~/my photo.png", "'my photo.png'", '"my photo.png"', "my\\ photo.png"]
    code, _, err = chat(*(f"/image {path}" for path in typed), "/draw", "/save ~/my\\ cube.png", "/save 'a cube.jpg'")
    assert (code, "error" in err) == (0, False), err
    assert (tmp_path / "my cube.png").is_file()
    assert (tmp_path / "a cube.jpg").is_file()
    code, _, err = chat("/image", "/image .", "/image 'no.png'")
    assert [message in err for message in ("needs a file name", "is a folder", "error: no.png: no such")] == [True] * 3


def test_a_picture_that_could_not_be_written_is_not_drawn(chat, monkeypatch):
    from bagel_rt.cli import chat as module

    monkeypatch.setattr(module, "show", lambda *_: pytest.fail("it is drawn"))
    monkeypatch.setattr("bagel_rt.cli.picture_files.free_names", lambda: iter([Path("/proc/bagel-1.png")]))
    code, _, err = chat("/draw a cube")
    assert (code, "cannot be written" in err) == (0, True)

"""Paths as people type them, and as terminals give them when a file is dropped on the window."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import bagel_rt
from bagel_export.checkpoint.sources import find_source
from bagel_rt.errors import InputError
from bagel_rt.files import typed_paths
from bagel_rt.files.typed_paths import typed_path


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "name", ["photo.png", "my photo.png", "it's me.png", "a'b'c.png", 'say "hi".png', "a (1) & b.png"]
)
@pytest.mark.parametrize("is_there", [True, False])
def test_every_way_to_type_a_name_means_that_file(home, name, is_there):
    path = home / name
    if is_there:
        path.touch()
    escaped = "".join(f"\\{c}" if c in " '\"()&" else c for c in name)
    for typed in (str(path), f"~/{name}", shlex.quote(str(path)), str(home / escaped), f"~/{escaped}"):
        assert typed_path(typed) == path, typed


def test_a_name_that_is_there_is_taken_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("'quoted'", "a\\ b.png", "~"):
        Path(name).touch()
        assert typed_path(name) == Path(name)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / '"x"').touch()
    assert (typed_path('"x"', folder), typed_path('"x"')) == (Path('"x"'), Path("x"))


def test_a_programs_path_keeps_its_quotes_and_backslashes_and_loses_its_tilde(home):
    assert typed_path(Path("~/a")) == home / "a"
    assert typed_path(Path("'a b'")) == Path("'a b'")
    assert typed_path("new\\table.png") == Path("new\\table.png")  # no terminal escapes a letter
    assert typed_path("~nobody-of-this-name/a") == Path("~nobody-of-this-name/a")


def test_on_windows_backslashes_are_folders_and_double_quotes_are_taken_off(monkeypatch):
    monkeypatch.setattr(typed_paths, "WINDOWS", True)
    assert str(typed_path('"C:\\my photos\\a.png"')) == "C:\\my photos\\a.png"
    assert str(typed_path("C:\\my photos\\(a).png")) == "C:\\my photos\\(a).png"


@pytest.mark.parametrize("given", [5, None, b"a.png", ["a.png"], "a\0b.png"])
def test_what_is_no_path_is_named(given):
    with pytest.raises(bagel_rt.InputError, match="path"):
        typed_path(given)


def test_a_path_that_the_system_cannot_look_at_is_refused_by_name(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for given, words in (("a" * 10000, "too long"), (str(tmp_path / "loop" / "b"), "circle")):
        with pytest.raises(InputError, match=words):
            typed_path(given)
    assert typed_path(str(tmp_path / "nothing")) == tmp_path / "nothing"


def test_a_checkpoints_path_is_read_as_typed(home):
    for typed, message in (("~/x", f"{home}/x: no such checkpoint"), ("~nobody-of-this-name/x", "nobody-of-this-name")):
        with pytest.raises(bagel_rt.BagelError, match=message):
            find_source(typed)
    with pytest.raises(bagel_rt.BagelError, match="too long"):
        find_source("a" * 10000)

"""File names made of ids."""

from __future__ import annotations

import os

import pytest

from bagel_rt.files.safe_names import names_for, same_file


def test_a_plain_id_names_its_files():
    assert names_for("green-1.b", [".png"], set()) == ["green-1.b.png"]
    assert names_for("红", ["-1.png", "-2.png"], set()) == ["红-1.png", "红-2.png"]


@pytest.mark.parametrize("id", ["n" * 101, "红" * 40, "con", "Nul", "com1", "lpt9.b", "aux.x.y", "COM²"])
def test_an_id_that_some_file_system_refuses_gives_a_name_of_its_own_that_all_take(id):
    (name,) = names_for(id, [".png"], set())
    assert name.isascii()
    assert len(name) < 100
    assert name.split(".")[0].lower() not in ("con", "nul", "com1", "lpt9", "aux")
    assert names_for(id, [".png"], set()) == [name]
    assert names_for(id + "x", [".png"], set()) != [name]


def test_an_id_whose_files_others_have_gets_other_names():
    taken = {same_file("a-1.png")}
    assert names_for("a", [".png"], taken) == ["a.png"]
    several = names_for("a", ["-1.png", "-2.png"], taken)
    assert not {same_file(name) for name in several} & taken
    assert names_for("A-1", [".png"], taken) != ["A-1.png"]


def test_names_are_the_same_where_a_file_system_takes_them_for_one():
    assert same_file("Straße.png") == same_file("STRASSE.png")
    assert same_file("caf\u00e9") == same_file("cafe\u0301") == same_file("CAF\u00c9")
    assert same_file("a") != same_file("b")


def test_an_id_outside_the_systems_character_set_is_spelled_in_ascii(monkeypatch):
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("ascii"))
    (name,) = names_for("图", [".png"], set())
    assert name.isascii()

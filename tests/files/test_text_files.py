"""Texts that people wrote, whatever editor they used, and lines that every program reads as lines."""

from __future__ import annotations

import json

import pytest

import bagel_rt
from bagel_rt.files.text_files import json_line, parse_json, read_json, read_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_how_a_text_is_stored_and_is_no_part_of_it(tmp_path, encoding):
    (tmp_path / "a.txt").write_text('{"a": "红"}', encoding=encoding)
    assert read_text(tmp_path / "a.txt") == '{"a": "红"}'
    assert read_json(tmp_path / "a.txt") == {"a": "红"}


def test_what_cannot_be_read_is_named_in_the_callers_own_error(tmp_path):
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "broken.json").write_text('{"a": 1,\n"b": }')
    for name, message in (
        ("no.txt", "no.txt: file not found"),
        ("", "not readable: Is a directory"),
        ("latin.txt", "latin.txt: not readable as text.*save it as UTF-8"),
        ("broken.json", "broken.json: not readable as JSON: Expecting value at line 2, character 6; again"),
    ):
        with pytest.raises(bagel_rt.CheckpointError, match=message):
            read_json(tmp_path / name, bagel_rt.CheckpointError, "; again")


@pytest.mark.parametrize(
    "text, message",
    [
        ("9" * 5000, "a number has thousands of digits"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("{", "at character 2"),
        ("[1, 2\n", "Expecting ',' delimiter at line 2"),
    ],
)
def test_json_that_python_cannot_read_is_bad_input(text, message):
    with pytest.raises(bagel_rt.InputError, match=message):
        parse_json(text)


def test_a_line_of_json_is_one_line_for_everybody_and_reads_back():
    value = {"said": "a\u2028b\u2029c\u0085d\ne\x0bf\ud800 红 \U0001f600"}
    line = json_line(value)
    assert line.splitlines() == [line]
    assert json.loads(line.encode("utf-8")) == value
    assert "红 \U0001f600" in line

"""What docs/clients.md shows is run against a live server."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from documents import ROOT, blocks

ADDRESS = "http://127.0.0.1:8000"
PAGE = blocks(ROOT / "docs" / "clients.md")


@pytest.fixture
def folder(tmp_path, monkeypatch, circle):
    (tmp_path / "photo.png").write_bytes(circle)
    monkeypatch.chdir(tmp_path)


LINES = [line for block in PAGE if block.language == "sh" for line in block.code.splitlines()]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("line", LINES)
def test_the_lines_for_curl_are_answered(live, folder, line):
    assert line.startswith("curl ")
    done = subprocess.run(line.replace(ADDRESS, live.url) + " -s", shell=True, capture_output=True, text=True)
    assert done.returncode == 0
    if "-N" in line:
        assert "image_generation.completed" in done.stdout
    else:
        assert "error" not in json.loads(done.stdout)


def test_the_lines_for_the_openai_package_run(live, folder, capsys):
    code = next(block.code for block in PAGE if block.language == "python" and "from openai" in block.code)
    exec(code.replace(ADDRESS, live.url), {})
    assert capsys.readouterr().out.splitlines()[-1] == "image_generation.completed"

"""What README.md and the pages in docs/ show is run as it stands, on bagel-nano."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import ROOT, Block, blocks, pages
from PIL import Image

from bagel_rt.cli import main
from bench.nano.render import render
from bench.nano.world import Placed, Scene, Thing

RUN = ("python", "sh")
SHOWN = ("text", "json", "toml")  # what is read and not run
WITH_CODE = [page for page in pages() if any(block.language in RUN and not block.reason for block in blocks(page))]
ON_DISK = re.compile(r"^    (?:bagel-rt|make|pip|python|import|from|with) .*", re.MULTILINE)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where a reader would type: a picture of a red circle is there."""
    red = Scene((Placed(Thing("circle", "red", "big"), (1, 1)),), "white")
    Image.fromarray(np.asarray(render(red))).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def type_in(code: str) -> None:
    """Lines of a shell: our own command in this process, others as they are."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["bagel-rt"]:
            assert main(words[1:]) == 0, line
        elif words:
            assert words[0] == "echo", f"{line}: only bagel-rt and echo are run; give the block a reason"
            subprocess.run(line, shell=True, check=True)


def run(page: Path, block: Block, names: dict[str, Any]) -> None:
    if block.language == "sh":
        type_in(block.code)
    else:
        lines = "\n" * block.line  # so that an error names the page's own line
        exec(compile(lines + block.code, name(page), "exec"), names)


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, folder, capsys):
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language in RUN and not block.reason:
            run(page, block, names)


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_block_is_run_or_says_why_not(page):
    for block in blocks(page):
        where = f"{name(page)}, line {block.line}"
        assert block.language in (*RUN, *SHOWN), f"{where}: name the language: {', '.join((*RUN, *SHOWN))}"
        assert block.language in RUN or not block.reason, f"{where}: a reason, and nothing to run"
        assert block.reason is None or len(block.reason) > 10, where
    assert ON_DISK.findall(re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)) == []


def test_the_pages_that_have_code_to_run_are_many():
    assert len(WITH_CODE) >= 6

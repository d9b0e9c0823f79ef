"""The house rules that tools can check."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "layers": ["lint-imports"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_house_rules_hold(tool):
    program, *arguments = TOOLS[tool]
    done = subprocess.run([Path(sys.executable).parent / program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_of_the_runtime_imports_torch_or_transformers():
    for path in [*ROOT.glob("bagel_rt/**/*.py"), *ROOT.glob("engines/**/*.py")]:
        assert not re.search(r"^\s*(import|from) (torch|transformers)\b", path.read_text(), re.MULTILINE), path


def test_every_graph_of_the_contract_is_described_in_the_architecture():
    from bagel_rt.artefact.contract import TASK_GRAPHS

    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert [name for name in TASK_GRAPHS["full"] if f"`{name}`" not in text] == []

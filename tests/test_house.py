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


def test_nothing_from_outside_is_checked_by_an_assert():
    """`python -O` leaves asserts out. They may say what the code itself made sure of, and narrow types: no more."""
    narrow = re.compile(r"assert (\w|\.)+ is not None$|assert isinstance\(.+\)$")
    own = ["page_table.py", "quantized_nodes.py"]  # the conservation law of pages; a node that was just found
    for path in [p for folder in ("bagel_rt", "engines", "export") for p in (ROOT / folder).rglob("*.py")]:
        asserts = re.findall(r"^ *(assert\b.*)", path.read_text(), re.MULTILINE)
        assert path.name in own or all(map(narrow.match, asserts)), path
        assert "AssertionError)" not in path.read_text(), path


def test_every_graph_of_the_contract_is_described_in_the_architecture():
    from bagel_rt.artefact.contract import TASK_GRAPHS

    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert [name for name in TASK_GRAPHS["full"] if f"`{name}`" not in text] == []


PACKAGES = ["bagel_rt", "engines/bagel_engines", "export/bagel_export"]
PATHS = re.compile(r"(?<![\w/.-])((?:[\w.-]+/)*[\w.-]+\.(?:py|md|toml|json)|(?:[\w-]+/)+)(?![\w/])")
LONGEST = {"README.md": 150, "ARCHITECTURE.md": 120}


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_path_a_document_names_exists(document):
    named = set(PATHS.findall((ROOT / document).read_text())) - {"engines/bagel_engines/NAME/"}
    assert len(named) > 30
    missing = [path for path in named if not any((ROOT / start / path).exists() for start in ["", *PACKAGES])]
    assert missing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_has_its_place_in_the_architecture(package):
    rooms = [path.parent.name for path in (ROOT / package).glob("*/__init__.py")]
    assert len(rooms) >= 4
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert [room for room in rooms if f"`{room}/`" not in text] == []


@pytest.mark.parametrize("document", LONGEST)
def test_documents_for_a_first_visit_stay_short(document):
    assert len((ROOT / document).read_text().splitlines()) <= LONGEST[document]


def test_commits_and_ci_run_the_linters_of_make_lint():
    recipe = re.search(r"^lint:.*\n\t(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    tools = re.findall(r"\$\(VENV\)/bin/([\w-]+(?: check| format)?)", recipe[1])
    assert len(tools) == 4
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert [tool for tool in tools if f".venv/bin/{tool}" not in hooks] == []
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-3:] == ["make lint", "make docs", "make test SLOW=1"]


def test_the_rooms_of_tests_that_ci_names_are_there():
    named = re.findall(r"tests/[\w/.]+", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_no_test_sets_the_clock_of_the_whole_process():
    """A server's loop that looks at such a clock sleeps for as long as the true one is ahead."""
    setting = re.compile(r"""setattr\((?:\w+\.)*time, "monotonic"|setattr\(["'][\w.]*time\.monotonic""")
    tests = (ROOT / "tests").rglob("*.py")
    assert [file.name for file in tests if setting.search(file.read_text())] == []


def test_no_two_modules_import_each_other_by_whatever_way():
    import grimp
    import networkx

    names = [Path(package).name for package in PACKAGES]
    graph = grimp.build_graph(*names, exclude_type_checking_imports=False, cache_dir=None)
    imports = networkx.DiGraph(
        (one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one)
    )
    assert imports.number_of_edges() > 200
    assert [sorted(circle) for circle in networkx.strongly_connected_components(imports) if len(circle) > 1] == []

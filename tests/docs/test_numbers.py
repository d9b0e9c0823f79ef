"""Numbers in the documents are those of the results beside which they stand."""

from __future__ import annotations

import re

import pytest
from documents import ROOT, pages

from bench import tables

NUMBERS = re.compile(r"\d\.\d")
OTHERS = 1  # README's other table with measured numbers: which engine, which precision


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_of_results_is_what_the_results_give(page):
    text = page.read_text(encoding="utf-8")
    assert tables.filled(text) == text, "run: python bench/tables.py"


def test_every_table_is_used_somewhere_and_made_of_a_result():
    used = {found[2] for page in pages() for found in tables.PLACE.finditer(page.read_text(encoding="utf-8"))}
    assert used == set(tables.TABLES)


def test_the_readme_has_no_table_of_numbers_that_is_not_made():
    text = tables.PLACE.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    found = [table for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE) if NUMBERS.search(table)]
    assert len(found) == OTHERS


def test_result_files_that_documents_name_exist():
    for page in pages():
        for name in re.findall(r"bench/results/[\w.-]+\.\w+", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_a_changed_number_is_noticed():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "| 878 ms |" in text
    changed = text.replace("| 878 ms |", "| 788 ms |")
    assert tables.filled(changed) == text

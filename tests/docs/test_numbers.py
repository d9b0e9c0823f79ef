"""Numbers in the documents are those of the results beside which they stand."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import golden_cases
import pytest
from documents import ROOT, pages

from bagel_rt.artefact.folders import BUNDLED
from bagel_rt.artefact.manifest import read_manifest
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


def test_the_page_of_bagel_nano_says_which_artefact_was_scored_and_which_one_ships():
    text = (ROOT / "docs" / "bagel-nano.md").read_text(encoding="utf-8")
    scored = tables.read("nano-score-int8.json")["model"].split()[-1]
    assert f"`{scored}`" in text
    assert f"`{read_manifest(BUNDLED).fingerprint}`" in text


@pytest.mark.parametrize("form", ["int8", "w8a8"])
def test_bagel_nanos_forms_are_right_as_often_as_float32_within_what_its_page_says(form):
    assert "within 0.02 of `fp32`" in (ROOT / "docs" / "bagel-nano.md").read_text(encoding="utf-8")
    exact, rounded = (tables.read(f"nano-score-{which}.json")["scores"] for which in ("fp32", form))
    assert exact.keys() == rounded.keys()
    assert {row["n"] for row in (*exact.values(), *rounded.values())} == {200}
    apart = {name: abs(row["right"] - exact[name]["right"]) for name, row in rounded.items()}
    assert max(apart.values()) <= 0.02 * 200, apart


def test_the_readme_says_how_many_parameters_bagel_nano_has():
    files = (ROOT / "bench" / "nano" / "bagel-nano").glob("*.safetensors")
    count = sum(math.prod(tensor["shape"]) for file in files for tensor in header(file).values())
    assert f"{count / 1e6:.1f} million parameters" in (ROOT / "README.md").read_text(encoding="utf-8")


def header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        found = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {name: tensor for name, tensor in found.items() if name != "__metadata__"}


def test_result_files_that_documents_name_exist():
    for page in pages():
        for name in re.findall(r"bench/results/[\w.-]+\.\w+", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_the_golden_limits_are_those_the_documents_name_and_near_what_was_measured():
    for page in (ROOT / "README.md", ROOT / "docs" / "proof.md"):
        assert f"{golden_cases.LATENT:g}".replace("e-0", "e-") in page.read_text(encoding="utf-8"), page
    for engine, found in tables.read("recorded-cpu.json")["engines"].items():
        worst = max(found["relative_l2"], found["relative_l2_step_cache"])
        assert worst < golden_cases.LATENT < 10 * worst, engine
        assert found["pixels"] <= golden_cases.PIXEL, engine


def test_a_changed_number_is_noticed():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "| 878 ms |" in text
    changed = text.replace("| 878 ms |", "| 788 ms |")
    assert tables.filled(changed) == text

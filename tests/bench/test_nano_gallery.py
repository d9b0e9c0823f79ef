"""The sheet of pictures that others drew: each as it came with an answer, and what its edit made of it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from bagel_rt.artefact.folders import BUNDLED
from bench.nano import gallery
from bench.nano.cases import EDITED
from bench.nano.pictures import picture
from bench.nano.score import chosen


def test_a_card_is_framed_by_what_the_checker_says_of_it():
    (edit,) = chosen([EDITED], 1)
    assert edit.edit is not None
    about, before, after = gallery.question(edit), *map(picture, (edit.edit.before, edit.edit.after))
    done, wrong = (
        gallery.cards(edit, about, (p, None), (None, text)) for p, text in ((after, about.answer), (before, ""))
    )
    assert [card.right for card in done] == [True, True]
    assert [card.right for card in wrong] == [False, False]
    assert done[0].caption == f"{about.prompt} - {about.answer}"
    assert np.array_equal(done[0].picture, before)


def test_every_picture_is_asked_about_as_it_was_handed_over():
    edits = chosen([EDITED], 20)
    abouts = [gallery.question(edit) for edit in edits]
    assert [a.scene for a in abouts] == [e.edit.before for e in edits if e.edit]
    assert [gallery.question(edit) for edit in edits] == abouts


@pytest.mark.slow
def test_the_sheet_shows_each_picture_beside_its_edit(monkeypatch, capsys, tmp_path):
    out, result = tmp_path / "sheet.png", tmp_path / "found.json"
    given = ["gallery", "--model", str(BUNDLED), "--count", "2", "--out", str(out), "--result", str(result)]
    monkeypatch.setattr(sys, "argv", given)
    gallery.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == json.loads(result.read_text(encoding="utf-8"))
    assert found["pictures"] == len(found["rows"]) == 2
    assert found["right"]["edits"] == sum(row["edited"] for row in found["rows"])
    assert Image.open(out).width > 4 * 160

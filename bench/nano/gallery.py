"""What does bagel-nano make of pictures that others drew?  python -m bench.nano.gallery --model DIR --out SHEET.png

Twenty held-out pictures from PIL's ImageDraw, which no training picture comes from: each as it was handed over, what an
edit made of it, and the answer to a question about it, marked by the checker. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import random
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from bagel_rt.cli.contact_sheet import Card, contact_sheet
from bench.nano.askers import Model, asked
from bench.nano.cases import EDITED, Case
from bench.nano.pictures import picture
from bench.nano.score import ask, chosen, is_right
from bench.nano.tasks import any_question, retry
from bench.timing import finish, machine

COUNT, COLUMNS = 20, 8
Given = tuple[Image.Image | None, str | None]


def question(edit: Case) -> Case:
    """One about the picture that is edited."""
    assert edit.edit is not None
    scene, rng = edit.edit.before, random.Random(f"gallery {edit.seed}")
    told: Any = retry(lambda: any_question(rng, scene))
    return Case("questions", told.text, edit.seed, scene=scene, answer=told.answer)


def cards(edit: Case, about: Case, edited: Given, answered: Given) -> list[Card]:
    """The picture with its question and answer, and what the edit made of it."""
    assert edit.edit is not None
    assert edited[0] is not None
    said = f"{about.prompt} - {answered[1]}"
    return [
        Card(picture(edit.edit.before), said, is_right(about, *answered)),
        Card(edited[0], edit.prompt, is_right(edit, *edited)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a core and the model")
    parser.add_argument("--out", type=Path, required=True, help="the sheet")
    parser.add_argument("--result", type=Path, help="a JSON file for what was right")
    args = parser.parse_args()
    edits = chosen([EDITED], args.count)
    abouts = [question(edit) for edit in edits]
    model = Model(args.model)
    given = list(asked(model, partial(ask, options={}), [*edits, *abouts], args.workers))
    both = zip(edits, abouts, given[: len(edits)], given[len(edits) :], strict=True)
    shown = [cards(*one) for one in both]
    contact_sheet([card for pair in shown for card in pair], COLUMNS).save(args.out)
    with model.load() as bagel:
        about_model = {"bench": "nano/gallery", "model": bagel.model, "engine": bagel.engine}
    right = {name: sum(bool(pair[i].right) for pair in shown) for i, name in enumerate(("answers", "edits"))}
    rows = [{"question": a.caption, "answered": a.right, "edit": e.caption, "edited": e.right} for a, e in shown]
    finish({**about_model, **machine(), "pictures": len(edits), "right": right, "rows": rows}, args.result)


if __name__ == "__main__":
    main()

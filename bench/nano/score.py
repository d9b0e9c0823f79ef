"""How often is bagel-nano right? python -m bench.nano.score --model DIR --out RESULT.json

Draws, edits and answers the held-out cases through an exported artefact and checks pixels and words. Any engine,
precision or shortcut is scored by the same cases and seeds, so two results can be compared case by case (--against).
Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

import bagel_rt
from bagel_rt.api import Bagel
from bagel_rt.cli.contact_sheet import Card, contact_sheet
from bagel_rt.results import ImageResult, TextResult
from bench.nano.askers import Model, asked
from bench.nano.cases import AIMS, HELD_OUT, TRAINED, Case, Half, all_cases
from bench.nano.checker import Seen, fulfils, is_on, keeps, look, shows
from bench.nano.intervals import paired, wilson
from bench.nano.people_cases import people_cases
from bench.nano.pictures import picture
from bench.nano.words import describe
from bench.nano.world import Thing
from bench.timing import machine

THINK_TOKENS, ANSWER_TOKENS = 64, 48
SHEET_COLUMNS, SHEET_ROWS = 10, 2


def is_right(case: Case, drawn: Image.Image | None, text: str | None) -> bool:
    if case.answer is not None:
        return text == case.answer
    assert drawn is not None
    return seen_right(look(np.asarray(drawn), is_free(case)), case)


def is_free(case: Case) -> bool:
    """Whether the picture is to show things of other forms than the plain ones."""
    return case.edit is not None and case.edit.before.manner is not None


def seen_right(seen: Seen, case: Case) -> bool:
    return fulfils(seen, case.wish) if case.wish is not None else edited(seen, case)


def edited(seen: Seen, case: Case) -> bool:
    """Whether the edit was done and everything else stayed; where a thing is added is the model's choice."""
    edit = case.edit
    assert edit is not None
    if edit.action != "add":
        return shows(seen, edit.after)
    new = replace(edit.after.placed[-1].thing, size=None)
    before = sum(new.fits(t) for t in edit.before.things)
    there = sum(isinstance(t, Thing) and new.fits(t) for t in seen.things)
    as_many = len(seen.found) == len(edit.after.placed) and there == before + 1
    return as_many and is_on(seen, edit.before) and keeps(seen, edit.before)


def result(bagel: Bagel, case: Case, options: dict[str, Any]) -> ImageResult | TextResult:
    """What the model gives for a case."""
    if case.answer is not None:
        assert case.scene is not None
        return bagel.ask(case.prompt, picture(case.scene), max_tokens=ANSWER_TOKENS)
    if case.edit is not None:
        return bagel.edit(picture(case.edit.before), case.prompt, seed=case.seed, **options)
    return bagel.generate(case.prompt, seed=case.seed, think=case.think, max_think_tokens=THINK_TOKENS, **options)


def ask(bagel: Bagel, case: Case, options: dict[str, Any]) -> tuple[Image.Image | None, str | None]:
    """The picture, or the text, that the model gives for a case."""
    given = result(bagel, case, options)
    return (given.image if isinstance(given, ImageResult) else None), given.text


def summary(marks: dict[str, list[int]]) -> dict[str, dict[str, Any]]:
    table = {}
    for category, bits in marks.items():
        low, high = wilson(sum(bits), len(bits))
        table[category] = {
            "n": len(bits),
            "right": sum(bits),
            "share": round(sum(bits) / len(bits), 4),
            "interval": [round(low, 4), round(high, 4)],
            **({"aim": AIMS[category]} if category in AIMS else {}),
        }
    return table


def compare(mine: dict[str, list[int]], other: dict[str, str]) -> dict[str, Any]:
    common = [c for c in mine if c in other and len(mine[c]) == len(other[c])]
    pairs = {c: paired(mine[c], map(int, other[c])) for c in common}
    pooled = ([b for c in common for b in mine[c]], [int(b) for c in common for b in other[c]])
    return {**pairs, "all": paired(*pooled)}


def chosen(only: Sequence[str] | None, limit: int | None, half: Half = HELD_OUT) -> list[Case]:
    """The first `limit` cases of each category, of all where none is named."""
    by_category: dict[str, list[Case]] = {}
    for case in (*all_cases(half), *people_cases(half)):
        if not only or case.category in only:
            by_category.setdefault(case.category, []).append(case)
    return [case for group in by_category.values() for case in group[:limit]]


def _title(case: Case) -> str:
    """The prompt; what it means where the sheet's font has no letters for it."""
    return case.prompt if case.prompt.isascii() or case.wish is None else f"(zh) {describe(case.wish)}"


def table(scores: dict[str, dict[str, Any]]) -> str:
    rows = ["| | share right | 95 % interval | n | aim |", "|---|---|---|---|---|"]
    for category, s in scores.items():
        low, high = s["interval"]
        rows.append(f"| {category} | {s['share']:.2f} | {low:.2f} to {high:.2f} | {s['n']} | {s.get('aim', '')} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--arithmetic")
    parser.add_argument("--only", nargs="*", help="categories")
    parser.add_argument("--limit", type=int, help="cases per category")
    parser.add_argument("--trained", action="store_true", help="of what training may have shown, instead")
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=JSON", help="image options, cfg_text_scale=3")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a core and the model")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--against", type=Path, help="an earlier result, compared case by case")
    args = parser.parse_args()
    options = {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in args.set)}
    cases = chosen(args.only, args.limit, TRAINED if args.trained else HELD_OUT)
    marks: dict[str, list[int]] = {}
    shown: dict[str, list[Card]] = {}
    began = time.monotonic()
    model = Model(args.model, args.backend, args.arithmetic)
    answers = asked(model, partial(ask, options=options), cases, args.workers)
    for case, (drawn, text) in zip(cases, tqdm(answers, total=len(cases), unit="case"), strict=True):
        right = is_right(case, drawn, text)
        marks.setdefault(case.category, []).append(int(right))
        if drawn is not None:
            shown.setdefault(case.category, []).append(Card(drawn, _title(case), right))
    with model.load() as bagel:
        engine, name = bagel.engine, bagel.model
    scores = summary(marks)
    thinking = [marks.get(f"riddles, {how}") for how in ("thinking", "not thinking")]
    report = {
        "bench": "nano/score",
        "model": name,
        "engine": engine,
        **machine(),
        "versions": {"bagel-rt": bagel_rt.__version__, "numpy": np.__version__},
        **({"cases": "of what training may have shown"} if args.trained else {}),
        "options": options or "the defaults of generate and edit",
        "seconds": round(time.monotonic() - began, 1),
        "scores": scores,
        **({"thinking over not thinking": paired(*thinking)} if all(thinking) else {}),
        "marks": {c: "".join(map(str, bits)) for c, bits in marks.items()},
    }
    if args.against:
        report["against"] = compare(marks, json.loads(args.against.read_text())["marks"])
    if args.sheet:
        tiles = [t for group in shown.values() for t in group[: SHEET_COLUMNS * SHEET_ROWS]]
        contact_sheet(tiles, SHEET_COLUMNS).save(args.sheet)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(scores))
    print(json.dumps({k: v for k, v in report.items() if k != "marks"}, ensure_ascii=False))


if __name__ == "__main__":
    main()

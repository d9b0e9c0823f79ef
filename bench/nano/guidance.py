"""Which guidance do bagel-nano's edits need?  python -m bench.nano.guidance --model DIR --out RESULT.json

The same edits with the same seeds by the scales of guidance, each paired with BAGEL's own. The cases are of what
training may have shown, so that what is chosen by them can be scored on what was held out. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.nano.askers import Model, asked
from bench.nano.cases import TRAINED, Case
from bench.nano.score import ask, chosen, is_right, paired, summary
from bench.timing import finish, machine

OFFICIAL = {"preset": "notebook"}
WAYS: tuple[dict[str, float], ...] = (
    {},
    {"cfg_text_scale": 3.0},
    {"cfg_text_scale": 2.0},
    {"cfg_text_scale": 1.5},
    {"cfg_text_scale": 2.0, "cfg_img_scale": 1.5},
    {"cfg_text_scale": 2.0, "cfg_img_scale": 1.0},
)


def marks(model: Model, cases: list[Case], options: dict[str, Any], workers: int) -> list[int]:
    answers = asked(model, partial(ask, options={**OFFICIAL, **options}), cases, workers)
    bar = tqdm(answers, total=len(cases), unit="case", desc=told(options))
    return [int(is_right(case, drawn, text)) for case, (drawn, text) in zip(cases, bar, strict=True)]


def told(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in options.items()) or "BAGEL's own"


def rows(model: Model, limit: int, workers: int) -> list[dict[str, Any]]:
    """A row for each way of guiding, BAGEL's own first."""
    cases = chosen(["edits"], limit, TRAINED)
    found = [marks(model, cases, options, workers) for options in WAYS]
    scores = summary({told(options): right for options, right in zip(WAYS, found, strict=True)})
    return [
        {"guidance": name, **score, "paired": paired(right, found[0])}
        for (name, score), right in zip(scores.items(), found, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--limit", type=int, default=80, help="edits")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a core and the model")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = Model(args.model, args.backend)
    found = rows(model, args.limit, args.workers)
    with model.load() as bagel:
        about = {"bench": "nano/guidance", "model": bagel.model, "engine": bagel.engine}
    finish({**about, **machine(), "rows": found}, args.out)


if __name__ == "__main__":
    main()

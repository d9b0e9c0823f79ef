"""How are bagel-nano's edits or pictures best sampled?  python -m bench.nano.guidance --model DIR --out RESULT.json

The same cases with the same seeds by scales of guidance, or by where guidance acts and how steps are spaced, each way
paired with BAGEL's own. The cases are of what training may have shown, so that what is chosen by them can be scored on
what was held out. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.nano.askers import Model, asked
from bench.nano.cases import TRAINED, Case
from bench.nano.intervals import paired
from bench.nano.score import ask, chosen, is_right, summary
from bench.timing import finish, machine

OFFICIAL = {"preset": "notebook"}
WAYS: dict[str, tuple[dict[str, Any], ...]] = {
    "edits": (
        {},
        {"cfg_text_scale": 3.0},
        {"cfg_text_scale": 2.0},
        {"cfg_text_scale": 1.5},
        {"cfg_text_scale": 2.0, "cfg_img_scale": 1.5},
        {"cfg_text_scale": 2.0, "cfg_img_scale": 1.0},
    ),
    "pictures": (
        {},
        {"cfg_text_scale": 6.0},
        {"cfg_text_scale": 2.0},
        {"cfg_interval": [0.4, 0.9]},
        {"timestep_shift": 1.0},
        {"timestep_shift": 8.0},
    ),
}
CATEGORIES = {"edits": ("edits",), "pictures": ("two objects", "counting", "position")}


def marks(model: Model, cases: list[Case], options: dict[str, Any], workers: int) -> list[int]:
    answers = asked(model, partial(ask, options={**OFFICIAL, **options}), cases, workers)
    bar = tqdm(answers, total=len(cases), unit="case", desc=told(options))
    return [int(is_right(case, drawn, text)) for case, (drawn, text) in zip(cases, bar, strict=True)]


def told(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in options.items()) or "BAGEL's own"


def _value(value: Any) -> str:
    return " to ".join(map(_value, value)) if isinstance(value, list) else f"{value:g}"


def rows(model: Model, of: str, limit: int, workers: int) -> list[dict[str, Any]]:
    """A row for each way of sampling, BAGEL's own first."""
    cases = chosen(CATEGORIES[of], limit, TRAINED)
    found = [marks(model, cases, options, workers) for options in WAYS[of]]
    scores = summary({told(options): right for options, right in zip(WAYS[of], found, strict=True)})
    return [
        {"guidance": name, **score, "paired": paired(right, found[0])}
        for (name, score), right in zip(scores.items(), found, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--of", choices=sorted(WAYS), default="edits")
    parser.add_argument("--limit", type=int, default=80, help="cases of each category")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a core and the model")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = Model(args.model, args.backend)
    found = rows(model, args.of, args.limit, args.workers)
    with model.load() as bagel:
        about = {"bench": "nano/guidance", "of": args.of, "model": bagel.model, "engine": bagel.engine}
    finish({**about, **machine(), "rows": found}, args.out)


if __name__ == "__main__":
    main()

"""Does the checker read pictures as a person does? python -m bench.nano.eyes --model bagel_rt/models/bagel-nano

eyes.toml says which of the model's pictures of held-out cases a person took for right. The same are drawn again and
read by the checker. Ends in one JSON line: of both series, in which the two differ, and how.
"""

from __future__ import annotations

import argparse
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.nano.askers import Model, asked
from bench.nano.score import ask, chosen, is_right
from bench.timing import finish, machine

EYES = tomllib.loads(Path(__file__).with_name("eyes.toml").read_text(encoding="utf-8"))
SERIES = ("first", "then")


def judged(model: Model, series: dict[str, Any], workers: int = 1) -> list[tuple[str, bool, bool]]:
    """Kind and number of each case, whether the person took it for right, and whether the checker does."""
    first, end = series["cases"]
    numbered = [
        (f"{kind} {n}", n not in wrong, case)
        for kind, wrong in series["wrong"].items()
        for n, case in enumerate(chosen([kind], end))
        if n >= first and n not in series["left_out"].get(kind, ())
    ]
    cases = [case for *_, case in numbered]
    drawn = tqdm(asked(model, partial(ask, options={}), cases, workers), total=len(cases), unit="picture")
    found = zip(numbered, drawn, strict=True)
    return [(name, by_eye, is_right(case, image, text)) for (name, by_eye, case), (image, text) in found]


def summary(marks: list[tuple[str, bool, bool]]) -> dict[str, Any]:
    return {
        "pictures": len(marks),
        "right by eye": sum(by_eye for _, by_eye, _ in marks),
        "right, called wrong": [name for name, by_eye, read in marks if by_eye and not read],
        "wrong, called right": [name for name, by_eye, read in marks if read and not by_eye],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a core and the model")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = Model(args.model)
    with model.load() as bagel:
        name = bagel.model
    if name.split()[-1] != EYES["model"]:
        raise SystemExit(f"{args.model} is {name}; the pictures that were looked at are of {EYES['model']}")
    rows = {which: summary(judged(model, EYES[which], args.workers)) for which in SERIES}
    finish({"bench": "nano/eyes", "model": name, **machine(), "rows": rows}, args.out)


if __name__ == "__main__":
    main()

"""Does it help bagel-nano to draw? python -m bench.nano.score_left --model DIR --out RESULT.json

Asks how many shapes are left of held-out scenes without some of them, three ways: what is left is drawn first and
looked at, it is described in words first, or the answer is given at once. The cases are the same for all, so that the
ways are compared case by case. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import bagel_rt
from bagel_rt.api import Bagel
from bagel_rt.results import ReasonResult
from bench.nano.checker import look, shows
from bench.nano.pictures import picture
from bench.nano.score import ANSWER_TOKENS, paired, summary, table
from bench.nano.tasks import Left, any_left
from bench.nano.world import scene_held_out
from bench.timing import machine

STYLE = Path(__file__).with_name("reasoning.toml")
DRAWN, DESCRIBED, AT_ONCE = "drawn first", "described first", "at once"
CASES = 200


def cases(count: int) -> list[Left]:
    """The same held-out scenes every time."""
    rng, found = random.Random(zlib.crc32(b"left")), []
    while len(found) < count:
        if scene_held_out((left := any_left(rng)).before):
            found.append(left)
    return found


def drawn(bagel: Bagel, case: Left, seed: int) -> ReasonResult:
    return bagel.reason(case.text, picture(case.before), style=STYLE, max_pictures=1, seed=seed)


def in_words(bagel: Bagel, case: Left, think: bool) -> str:
    text = bagel.ask(case.text, picture(case.before), think=think, max_tokens=2 * ANSWER_TOKENS).text
    return text.rpartition("</think>")[2].strip()


def picture_is_right(result: ReasonResult, case: Left) -> bool:
    return bool(result.pictures) and shows(look(np.asarray(result.pictures[0].image)), case.after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--limit", type=int, default=CASES)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    marks: dict[str, list[int]] = {name: [] for name in (DRAWN, DESCRIBED, AT_ONCE)}
    pictures: list[int] = []
    began = time.monotonic()
    with bagel_rt.load(args.model, args.backend) as bagel:
        for seed, case in enumerate(tqdm(cases(args.limit), unit="case")):
            result = drawn(bagel, case, seed)
            marks[DRAWN].append(int(result.answer == case.answer))
            pictures.append(int(picture_is_right(result, case)))
            marks[DESCRIBED].append(int(in_words(bagel, case, True) == case.answer))
            marks[AT_ONCE].append(int(in_words(bagel, case, False) == case.answer))
        engine, model = bagel.engine, bagel.model
    scores = summary({**marks, "pictures as they should be": pictures})
    report: dict[str, Any] = {
        "bench": "nano/score_left",
        "model": model,
        "engine": engine,
        **machine(),
        "versions": {"bagel-rt": bagel_rt.__version__, "numpy": np.__version__},
        "seconds": round(time.monotonic() - began, 1),
        "scores": scores,
        "drawn over described": paired(marks[DRAWN], marks[DESCRIBED]),
        "drawn over at once": paired(marks[DRAWN], marks[AT_ONCE]),
        "marks": {name: "".join(map(str, bits)) for name, bits in {**marks, "pictures": pictures}.items()},
    }
    if args.out:
        args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(scores))
    print(json.dumps({k: v for k, v in report.items() if k != "marks"}, ensure_ascii=False))


if __name__ == "__main__":
    main()

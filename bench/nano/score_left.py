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
from bench.nano.askers import Model, asked
from bench.nano.checker import look, shows
from bench.nano.intervals import paired
from bench.nano.pictures import picture
from bench.nano.score import ANSWER_TOKENS, summary, table
from bench.nano.tasks import Left, any_left
from bench.nano.world import scene_held_out
from bench.timing import machine

STYLE = Path(__file__).with_name("reasoning.toml")
DRAWN, DESCRIBED, AT_ONCE = "drawn first", "described first", "at once"
PICTURES = "pictures"
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


def judged(bagel: Bagel, given: tuple[int, Left]) -> dict[str, int]:
    """1 for each way whose answer is right, and for the picture."""
    seed, case = given
    result = drawn(bagel, case, seed)
    return {
        DRAWN: int(result.answer == case.answer),
        PICTURES: int(picture_is_right(result, case)),
        DESCRIBED: int(in_words(bagel, case, True) == case.answer),
        AT_ONCE: int(in_words(bagel, case, False) == case.answer),
    }


def picture_is_right(result: ReasonResult, case: Left) -> bool:
    return bool(result.pictures) and shows(look(np.asarray(result.pictures[0].image)), case.after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--limit", type=int, default=CASES)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a core and the model")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began, model = time.monotonic(), Model(args.model, args.backend)
    given = [*enumerate(cases(args.limit))]
    found = [*tqdm(asked(model, judged, given, args.workers), total=len(given), unit="case")]
    marks = {name: [one[name] for one in found] for name in (DRAWN, DESCRIBED, AT_ONCE)}
    pictures = [one[PICTURES] for one in found]
    scores = summary({**marks, "pictures as they should be": pictures})
    with model.load() as bagel:
        engine, name = bagel.engine, bagel.model
    report: dict[str, Any] = {
        "bench": "nano/score_left",
        "model": name,
        "engine": engine,
        **machine(),
        "versions": {"bagel-rt": bagel_rt.__version__, "numpy": np.__version__},
        "seconds": round(time.monotonic() - began, 1),
        "scores": scores,
        "drawn over described": paired(marks[DRAWN], marks[DESCRIBED]),
        "drawn over at once": paired(marks[DRAWN], marks[AT_ONCE]),
        "marks": {kind: "".join(map(str, bits)) for kind, bits in {**marks, PICTURES: pictures}.items()},
    }
    if args.out:
        args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(scores))
    print(json.dumps({k: v for k, v in report.items() if k != "marks"}, ensure_ascii=False))


if __name__ == "__main__":
    main()

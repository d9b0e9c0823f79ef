"""Does guessing from the prompt write texts faster?  python bench/prompt_lookup.py [--model DIR] [--out FILE.json]

Answers of a model (default: bagel-nano), some behind a plan's prompt, some about a picture, without guesses and with 1,
3 and 7 at a time, alternating: tokens a second, steps of the model, and whether the tokens are the same. What a real
text saves depends on how much of it repeats. Nothing else may run meanwhile. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from PIL.Image import Image

import bagel_rt
from bench.timing import alternating, finish, kept, machine

GUESSES = (0, 1, 3, 7)
PROMPTS = (
    "a blue square left of a yellow triangle",
    "a red circle above a green square",
    "a yellow triangle right of a blue circle",
)
QUESTIONS = ("what is in the picture?", "what colour is the square?", "describe the picture")


def texts(bagel: bagel_rt.Bagel, drawn: Image, guesses: int) -> list[list[int]]:
    """Token ids of answers behind the prompt of a plan, and about a picture."""
    how: Any = {"seed": 1, "max_tokens": 80, "prompt_lookup": guesses}
    plans = [bagel.ask(prompt, think=True, **how).token_ids for prompt in PROMPTS]
    return plans + [bagel.ask(question, images=[drawn], **how).token_ids for question in QUESTIONS]


def measured(bagel: bagel_rt.Bagel, rounds: int) -> dict[str, Any]:
    written: dict[str, Any] = {}
    drawn = bagel.generate(PROMPTS[0], seed=31).image
    runs = {str(n): partial(texts, bagel, drawn, n) for n in GUESSES}
    steps = {}
    for name, run in runs.items():
        bagel.graphs.calls.clear()
        run()
        steps[name] = bagel.graphs.calls["lm_head"]
    taken = alternating(kept(runs, written), rounds)
    rows = {}
    for name, ids in written.items():
        tokens, best = sum(map(len, ids)), sorted(taken[name])[len(taken[name]) // 2]
        rows[name] = {
            "tokens": tokens,
            "steps": steps[name],
            "tokens_per_s": round(tokens / best, 1),
            "same": ids == written["0"],
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("bagel-nano"))
    parser.add_argument("--backends", nargs="+", default=["openvino", "onnxruntime"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    results = {}
    for backend in args.backends:
        with bagel_rt.load(str(args.model), backend) as bagel:
            results[bagel.engine] = measured(bagel, args.rounds)
    question = "tokens a second with prompt lookup, by tokens guessed at a time; reading and encoding included"
    finish(
        {"question": question, "model": str(args.model), "rounds": args.rounds, "results": results} | machine(),
        args.out,
    )


if __name__ == "__main__":
    main()

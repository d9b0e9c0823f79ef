"""What do many users at once get of one model?  python bench/serving.py [--small] [--parts P ...] [--out FILE.json]

Calls of one loaded model in threads of one process, without HTTP. Parts:
tokens: answers at once against one after another, tokens a second, on bagel-nano and on one layer of the 7B's shape in
int8 with random weights and a small vocabulary.
drawing: seconds to the first token of an answer while pictures are drawn, and a picture's seconds a step while answers
are written, by priority, on bagel-nano.
overhead: a token's time through the scheduler where nobody else is there, against the turn without it, of both.
mix: pictures from text and edits, so many at once, latencies and pictures a second, of the model named by --model: with
--side 512 --steps 20 the request mix of vLLM-Omni's nightly figures.
Nothing else may run meanwhile. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import bagel_rt
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.synthetic import write_checkpoint
from bagel_rt.api import Bagel
from bagel_rt.events import finished
from bagel_rt.options.text_options import TextOptions
from bench.layers import shape
from bench.timing import finish, machine, seconds
from bench.ways import Way, exported

AT_ONCE = (1, 2, 4, 8, 16)
MIXED = (1, 4, 16)
TOKENS = 60  # written by an answer at most
PROMPT = "a blue square left of a yellow triangle, number"


def run_all(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call returns, all made at once. Raises the first error."""
    found: list[Any] = [None] * len(calls)

    def run(place: int) -> None:
        try:
            found[place] = calls[place]()
        except BaseException as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


def answers(bagel: Bagel, count: int) -> list[Callable[[], list[int]]]:
    """Calls for answers of one length: sampled so freely that few end early, which begin with different words."""
    how: Any = {"max_tokens": TOKENS, "do_sample": True, "text_temperature": 3.0}

    def ask(n: int) -> list[int]:
        return bagel.ask(f"{PROMPT} {n}", seed=n, **how).token_ids

    return [lambda n=n: ask(n) for n in range(count)]


def tokens_a_second(bagel: Bagel, rounds: int) -> dict[str, Any]:
    rows = {}
    run_all(answers(bagel, 2))
    for count in AT_ONCE:
        calls, rates, apart, made = answers(bagel, count), [], [], 0
        for _ in range(rounds):
            bagel.graphs.calls.clear()
            began = time.perf_counter()
            written = sum(map(len, run_all(calls)))
            rates.append(written / (time.perf_counter() - began))
            made = bagel.graphs.calls["lm_head"]
            began = time.perf_counter()
            alone = sum(len(call()) for call in calls)
            apart.append(alone / (time.perf_counter() - began))
        together, one_by_one = statistics.median(rates), statistics.median(apart)
        rows[str(count)] = {
            "tokens": written,
            "calls": made,
            "tokens_per_s": round(together, 1),
            "one_after_another": round(one_by_one, 1),
            "times": round(statistics.median(a / b for a, b in zip(rates, apart, strict=True)), 2),
        }
        print(bagel.engine, count, rows[str(count)], file=sys.stderr, flush=True)
    return rows


@contextmanager
def meanwhile(calls: list[Callable[[], Any]]) -> Iterator[None]:
    """Within the block every call is made again and again, each in a thread."""
    end = threading.Event()

    def repeat(call: Callable[[], Any]) -> None:
        while not end.is_set():
            call()

    threads = [threading.Thread(target=repeat, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


def first_token(bagel: Bagel) -> float:
    """Seconds until the first token that the model chose."""
    began = time.perf_counter()
    with closing(bagel.stream(f"{PROMPT} {time.time_ns()}", "text", max_tokens=3)) as events:
        for event in events:
            if event.done == 1:
                break
    return time.perf_counter() - began


def step_seconds(bagel: Bagel, steps: int) -> float:
    """Median seconds from one denoising step's event to the next."""
    places = []
    with closing(bagel.stream(["a red ring"], seed=1, num_timesteps=steps + 2)) as events:
        for event in events:
            if isinstance(event, bagel_rt.Step):
                places.append(time.perf_counter())
    return statistics.median(after - before for before, after in pairwise(places))


def while_drawing(model: str, backend: str, small: bool) -> dict[str, Any]:
    times, steps = (3, 5) if small else (30, 30)
    found: dict[str, Any] = {}
    for priority in ("tokens", "pictures"):
        with bagel_rt.load(model, backend, priority=priority) as bagel:  # type: ignore[arg-type]
            drawing = [lambda seed=seed: bagel.generate("a red ring", seed=seed, num_timesteps=50) for seed in (1, 2)]
            drawing = drawing if not small else [lambda: bagel.generate("a red ring", seed=1, num_timesteps=5)]
            first_token(bagel)
            rows: dict[str, float] = {
                "first_token_alone": statistics.median(first_token(bagel) for _ in range(times)),
                "step_alone": step_seconds(bagel, steps),
            }
            with meanwhile(drawing):
                waits = [first_token(bagel) for _ in range(times)]
            rows["first_token_beside_two_pictures"] = statistics.median(waits)
            rows["first_token_beside_two_pictures_at_most"] = max(waits)
            with meanwhile(list(answers(bagel, 8))):
                rows["step_beside_eight_answers"] = step_seconds(bagel, steps)
            found[priority] = {name: round(1000 * value, 2) for name, value in rows.items()}
            found["engine"] = bagel.engine
        print(priority, found[priority], file=sys.stderr, flush=True)
    return {"milliseconds": found}


def overhead(bagel: Bagel, small: bool) -> dict[str, Any]:
    """An answer's time with the scheduler and without, alternating."""
    opts = TextOptions(max_tokens=TOKENS, do_sample=True, text_temperature=3.0, seed=1)
    values = {name: value for name, value in vars(opts).items() if value is not None}

    def with_it() -> None:
        for _ in bagel.stream(PROMPT, "text", **values):
            pass

    def without() -> None:
        with bagel._gate.enter():
            finished(bagel._calls.answer([PROMPT], opts, 1))

    shares, per_token = [], []
    admission, bagel._admission = bagel._admission, None  # the check of memory is not the scheduler's
    with_it()
    written = len(finished(bagel._calls.answer([PROMPT], opts, 1)).token_ids)
    for i in range(4 if small else 60):
        order = (with_it, without) if i % 2 else (without, with_it)
        taken = {run: seconds(run) for run in order}
        shares.append(taken[with_it] / taken[without] - 1)
        per_token.append((taken[with_it] - taken[without]) / written)
    bagel._admission = admission
    return {
        "engine": bagel.engine,
        "share": round(statistics.median(shares), 4),
        "microseconds_per_token": round(1e6 * statistics.median(per_token), 1),
    }


def mix(model: str, backend: str, side: int, steps: int, at_once: tuple[int, ...]) -> dict[str, Any]:
    """Pictures from text and edits in turn, a fresh request as soon as one ends. steps: of the sampler."""
    found: dict[str, Any] = {"side": side, "steps": steps}
    with bagel_rt.load(model, backend) as bagel:
        how: Any = {"height": side, "width": side, "num_timesteps": steps + 1}
        source = bagel.generate("a red ring", seed=0, **how).image
        makers: dict[str, Callable[[int], Any]] = {
            "text to picture": lambda seed: bagel.generate("a red ring", seed=seed, **how),
            "edit": lambda seed: bagel.edit(source, "make it green", seed=seed, **how),
        }
        for name, make in makers.items():
            for count in at_once:
                began = time.perf_counter()
                taken = run_all([lambda seed=seed, make=make: seconds(lambda: make(seed)) for seed in range(count)])
                whole = time.perf_counter() - began
                found[f"{name}, {count} at once"] = {
                    "seconds_mean": round(statistics.mean(taken), 3),
                    "seconds_median": round(statistics.median(taken), 3),
                    "seconds_most": round(max(taken), 3),
                    "pictures_per_s": round(count / whole, 3),
                }
                print(name, count, found[f"{name}, {count} at once"], file=sys.stderr, flush=True)
        return {"engine": bagel.engine, "model": bagel.model, **found}


def layer(small: bool, folder: Path) -> Bagel:
    """A model of one layer, on OpenVINO in int8."""
    checkpoint = open_checkpoint(write_checkpoint(folder / "checkpoint", shape(small)))
    way = Way("int8", "int8")
    exported([way], checkpoint.folder, folder)
    return bagel_rt.load(way.artefact(folder), way.backend, arithmetic=way.arithmetic)


def of_texts(results: dict[str, Any], args: argparse.Namespace, bagel: Bagel, name: str, rounds: int) -> None:
    """Add the parts that are about texts alone."""
    if "tokens" in args.parts:
        results.setdefault(f"tokens, {name}", {})[bagel.engine] = tokens_a_second(bagel, rounds)
    if "overhead" in args.parts:
        results.setdefault(f"overhead, {name}", {})[bagel.engine] = overhead(bagel, args.small)


def measured(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    rounds = 1 if args.small else 3
    for backend in args.backends:
        with bagel_rt.load(args.model, backend) as bagel:
            of_texts(results, args, bagel, "bagel-nano", rounds)
        if "drawing" in args.parts:
            results.setdefault("drawing", {})[backend] = while_drawing(args.model, backend, args.small)
    if {"tokens", "overhead"} & set(args.parts):
        with layer(args.small, folder) as bagel:
            of_texts(results, args, bagel, "one layer", rounds)
    if "mix" in args.parts:
        side, steps, at_once = (64, 3, (1, 2)) if args.small else (args.side, args.steps, MIXED)
        results["mix"] = mix(args.model, args.backends[0], side, steps, at_once)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few and small requests: shows that the benchmark runs")
    parser.add_argument("--parts", nargs="+", default=["tokens", "drawing", "overhead", "mix"])
    parser.add_argument("--model", default="bagel-nano")
    parser.add_argument("--backends", nargs="+", default=["openvino", "onnxruntime"])
    parser.add_argument("--side", type=int, default=512, help="pixels of the mix's pictures")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of the mix's pictures")
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measured(args, Path(folder))
    question = "many calls of one model at once: tokens a second, waiting times, overhead, pictures a second"
    shown = "small" if args.small else "bagel-nano; one layer of BAGEL-7B-MoT in int8, random weights"
    finish({"question": question, "shape": shown, "results": results, **machine()}, args.out)


if __name__ == "__main__":
    main()

"""Do many clients leave a model as it was?  python bench/soak_library.py [--seconds N] [--clients N] [--out F]

Threads that ask, draw, edit and talk for so many seconds on bagel-nano, without HTTP. A share of them leaves in the
middle, reads slowly, asks for what cannot be, or meets an engine that fails (planted, in one call of so many). Every
result is compared with the one that the same request gives alone. Then: all pages are back, no thread and no file
descriptor is left, and memory at the end is what it was in the middle. Ends in one JSON line, and with 1 where
something was lost.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import bagel_rt
from bagel_engines import EngineFailure
from bagel_rt.api import Bagel
from bench.timing import finish, machine

DRAW: dict[str, Any] = {"height": 64, "width": 64, "num_timesteps": 4}
PROMPTS = ("a red ring", "a blue square left of a yellow triangle", "two green circles", "a car")
KINDS = ("ask", "look", "draw", "plan", "edit", "talk")
CANCELLED, SLOW, MALFORMED = 0.2, 0.05, 0.05  # shares of the requests
FAILS_EVERY = 400  # calls of the engine, where failures are planted
PAUSE = 0.02  # seconds that a slow reader takes for an event


@dataclass(frozen=True)
class Request:
    kind: str
    prompt: str


@dataclass
class Report:
    """What happened. wrong: results that are not their request's, and errors that should not be."""

    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self.lock:
            self.done[what] += 1

    def fault(self, what: str) -> None:
        with self.lock:
            self.wrong.append(what)


def content(result: Any) -> Any:
    """What a result is compared by."""
    ids = getattr(result, "token_ids", None)
    return tuple(ids) if ids is not None else (result.text, result.latent.tobytes())


class Clients:
    def __init__(self, bagel: Bagel, source: Any):
        self._bagel, self._source = bagel, source
        self._alone: dict[Request, Any] = {}

    def stream(self, request: Request) -> Iterator[Any]:
        bagel, prompt = self._bagel, request.prompt
        text: Any = {"max_tokens": 24, "seed": 1}
        return {
            "ask": lambda: bagel.stream(prompt, "text", **text),
            "look": lambda: bagel.stream([self._source, prompt], "text", prompt_lookup=3, **text),
            "draw": lambda: bagel.stream([prompt], seed=1, **DRAW),
            "plan": lambda: bagel.stream([prompt], seed=1, think=True, max_think_tokens=12, **DRAW),
            "edit": lambda: bagel.stream([self._source, prompt], seed=1, **DRAW),
            "talk": lambda: self._talk(prompt, text),
        }[request.kind]()

    def _talk(self, prompt: str, text: Any) -> Iterator[Any]:
        with self._bagel.session(seed=1) as session:
            session.add_text(prompt)
            session.generate_text(**{name: value for name, value in text.items() if name != "seed"})
            session.add_text(prompt)
            yield from session.stream_image(**DRAW)

    def learn(self) -> None:
        """What each request gives alone."""
        for kind in KINDS:
            for prompt in PROMPTS:
                request = Request(kind, prompt)
                *_, done = self.stream(request)
                self._alone[request] = content(done.result)

    def one(self, chance: random.Random, report: Report) -> None:
        """A request, as some client would make it."""
        request, lot = Request(chance.choice(KINDS), chance.choice(PROMPTS)), chance.random()
        try:
            if lot < MALFORMED:
                self._malformed(report)
            elif lot < MALFORMED + CANCELLED:
                self._cancelled(request, chance.randrange(8))
                report.count("cancelled")
            else:
                self._whole(request, report, PAUSE if lot > 1 - SLOW else 0.0)
        except bagel_rt.EngineError as error:
            report.count("failed") if "planted" in str(error) else report.fault(repr(error))
        except Exception as error:
            report.fault(f"{request}: {error!r}")

    def _malformed(self, report: Report) -> None:
        try:
            self._bagel.stream(["a"], num_timesteps=-1)
            report.fault("num_timesteps=-1 was taken")
        except bagel_rt.InputError:
            report.count("malformed")

    def _cancelled(self, request: Request, after: int) -> None:
        with closing(self.stream(request)) as events:  # type: ignore[type-var]
            for _ in zip(range(after), events, strict=False):
                pass

    def _whole(self, request: Request, report: Report, pause: float) -> None:
        last = None
        for event in self.stream(request):
            last = event
            time.sleep(pause)
        if not isinstance(last, bagel_rt.Done) or content(last.result) != self._alone[request]:
            report.fault(f"{request}: not its own result")
        report.count("slow" if pause else request.kind)


@contextmanager
def failing(bagel: Bagel, every: int | None) -> Iterator[None]:
    """Within the block one in so many calls of the loaded graphs fails."""
    runners, calls = dict(bagel.graphs._runners), Counter[str]()
    if every is None:
        yield
        return

    def planted(run: Callable) -> Callable:
        def call(*given: Any) -> Any:
            calls["made"] += 1
            if not calls["made"] % every:
                raise EngineFailure("planted")
            return run(*given)

        return call

    class Failing:
        def __init__(self, runner: Any):
            self.inputs, self.outputs, self.run = runner.inputs, runner.outputs, planted(runner.run)

    bagel.graphs._runners.update({name: Failing(runner) for name, runner in runners.items()})
    try:
        yield
    finally:
        bagel.graphs._runners.update(runners)


def held() -> dict[str, float]:
    process = psutil.Process()
    info = process.memory_full_info()
    return {"mib": info.uss / 2**20, "threads": process.num_threads(), "descriptors": process.num_fds()}


def soak(bagel: Bagel, clients: int, length: float, fails_every: int | None, seed: int) -> dict[str, Any]:
    """The report of so many clients in so many seconds."""
    source, before = bagel.generate("a red ring", seed=7, **DRAW).image, bagel.free_tokens
    users, report = Clients(bagel, source), Report()
    users.learn()
    start = held()
    until = time.monotonic() + length

    def client(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        while time.monotonic() < until:
            users.one(chance, report)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    memory: list[float] = []
    with failing(bagel, fails_every):
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(min(1.0, length / 20))
            memory.append(held()["mib"])
        for thread in threads:
            thread.join()
    bagel._turns.pool.table.check_integrity()
    end = held()
    half = memory[len(memory) // 2 :]
    quarter = max(1, len(half) // 4)
    first, last = (sum(part) / len(part) for part in (half[:quarter], half[-quarter:]))
    return {
        "clients": clients,
        "seconds": length,
        "requests": dict(sorted(report.done.items())),
        "requests_in_all": sum(report.done.values()),
        "wrong": report.wrong[:20],
        "pages_back": bagel.free_tokens == before,
        "threads_left": int(end["threads"] - start["threads"]),
        "descriptors_left": int(end["descriptors"] - start["descriptors"]),
        "drift_of_the_second_half": round(last / first - 1, 5),
        "mib": round(last, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bagel-nano")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--fails-every", type=int, default=FAILS_EVERY, help="calls of the engine, 0: it does not fail")
    parser.add_argument("--queue-length", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    with bagel_rt.load(args.model, args.backend, queue_length=args.queue_length) as bagel:
        found = soak(bagel, args.clients, args.seconds, args.fails_every or None, args.seed)
        report = {"question": "what many clients at once leave behind", "engine": bagel.engine, "model": bagel.model}
    finish(report | {"results": found} | machine(), args.out)
    sys.exit(bool(found["wrong"]) or not found["pages_back"])


if __name__ == "__main__":
    main()

"""Runs a model's calls to their end on ONNX Runtime's CUDA provider over the stand-in; one JSON line.

run_calls.py ARTEFACT [graphs] [shared]      graphs: with CUDA graphs; shared: sessions share one copy of the weights

The engine finds out by a sum whether sessions read weights where they lie, and there are no sums here: `shared` says
yes in its place, and the bytes that are held show whether it was true.

What a call draws or says means nothing here. Counts do, and the memory that is held: nothing may be left of a model
that was closed, after a call that failed for want of memory, too.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bindings
from run_graphs import counts, journal

import bagel_rt
from bagel_engines.onnxruntime.shared_weights import SharedWeights

SIZE = {"height": 64, "width": 64, "num_timesteps": 6}
STREAM = re.compile(r" stream (\w+)")


def done(bagel: Any) -> dict[str, dict[str, int]]:
    """What each call did."""
    found = {}

    def call(name: str, work: Any) -> Any:
        journal()
        result = work()
        lines = journal()
        found[name] = counts(lines) | {"forbidden": sum(line.startswith("FORBIDDEN") for line in lines)}
        return result

    image = call("generate", lambda: bagel.generate("a red cube", seed=1, **SIZE)).image
    call("edit", lambda: bagel.edit(image, "make it blue", seed=1, num_timesteps=4))
    call("ask", lambda: bagel.ask("what is it?", image, max_tokens=6))
    with bagel.session() as session:
        call(
            "session",
            lambda: [
                session.add_image(image),
                session.add_text("hm"),
                session.generate_text(max_tokens=3),
                session.generate_image(**SIZE),
            ],
        )
    return found


def one_more(bagel: Any) -> dict[str, Any]:
    """What one more denoising step with both branches takes, and one more token; and the streams of all they do."""
    side, guided = {"height": 64, "width": 64}, {"cfg_interval": (0.0, 1.0)}
    calls = {
        "step": lambda n: bagel.generate("a red cube", seed=1, num_timesteps=n, **side, **guided),
        "token": lambda n: bagel.ask("what is it?", max_tokens=n),
    }
    found, streams = {}, set()
    for name, call in calls.items():
        call(8)  # graphs may be loaded, and recorded
        done = {}
        for number in (8, 9):
            journal()
            call(number)
            lines = journal()
            done[number] = Counter(counts(lines)) + Counter({"waits for an event": lines.count("synchronise event")})
            streams |= {told[1] for line in lines if (told := STREAM.search(line))}
        found[name] = done[9] - done[8]
    return found | {"streams": sorted(streams)}


def captured_again(bagel: Any) -> int:
    """Captures of a picture that other threads draw after this one did."""
    side = {"height": 64, "width": 64, "cfg_interval": (0.0, 1.0)}
    journal()
    for _ in range(2):
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: bagel.generate("a red cube", seed=1, num_timesteps=8, **side)).result()
    return sum(line.startswith("capture begins") for line in journal())


def refused(bagel: Any) -> str:
    """A call for which there is too little memory: its error."""
    os.environ["CUDA_STANDIN_BYTES"] = str(bindings.held() + (16 << 10))
    try:
        bagel.generate("a blue cube on a large table, " * 20, seed=2, **SIZE)
    except Exception as error:
        return type(error).__name__
    finally:
        del os.environ["CUDA_STANDIN_BYTES"]
    return ""


def main(artefact: str, *words: str) -> None:
    bindings.install()
    if "shared" in words:
        SharedWeights._read_in_place = lambda self: True
    told: dict[str, Any] = {}
    with bagel_rt.load(artefact, backend="onnxruntime", device="cuda", cuda_graphs="graphs" in words) as bagel:
        told["loaded"] = bindings.held()
        told["calls"] = done(bagel)
        told["one more"] = one_more(bagel)
        told["captured again"] = captured_again(bagel)
        told["engine"] = str(bagel.engine)
        told["held"] = bindings.held()
        told["refused"] = refused(bagel)
        bagel.ask("still there?", max_tokens=2)
    del bagel
    gc.collect()
    print(json.dumps({**told, "left": bindings.held()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

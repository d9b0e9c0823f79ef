"""Loads every graph over the stand-in and tells what is held on the device that is not there: one JSON line.

held: by all graphs; more: what each graph for another kind of calls adds to it, on average.

weights_held.py ARTEFACT [shared]      shared: as in run_calls.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bindings

from bagel_engines import open_engine
from bagel_engines.onnxruntime.masked_runner import CAUSAL, OTHER, MaskedRunner
from bagel_engines.onnxruntime.shared_weights import SharedWeights
from bagel_engines.settings import Settings
from bagel_rt.artefact.contract import TASK_GRAPHS
from bagel_rt.artefact.manifest import read_manifest


def main(artefact: str, *words: str) -> None:
    bindings.install()
    if "shared" in words:
        SharedWeights._read_in_place = lambda self: True
    manifest = read_manifest(Path(artefact))
    engine = open_engine("onnxruntime", "cuda", Settings(stated=manifest.arithmetic))
    runners = [engine.load(Path(artefact) / f"{name}.onnx") for name in TASK_GRAPHS[manifest.task]]
    held, further = bindings.held(), 0
    for runner in runners:
        if isinstance(runner, MaskedRunner):
            for kind in (*runner._possible, *([OTHER] if CAUSAL in runner._possible else [])):
                further += kind not in runner._runners
                runner.of_kind(kind)
    more = (bindings.held() - held) // further
    told = {"held": held, "more": more, "shared": engine.shared_bytes}  # type: ignore[attr-defined]
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])

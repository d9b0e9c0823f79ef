"""TensorRT on a card: are plans built and loaded there, do they compute what ONNX Runtime computes, how fast?

For bench/gpu.py; card_plans.py ARTEFACT compared|drawn|played prints one JSON line. Each is a process of its own, so
that a builder that crashes is a result, and so is what TensorRT says where it does not run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bagel_rt
from bagel_engines import open_engine
from bagel_engines.settings import Settings
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.tensorrt.compare_plans import check_plans
from bagel_rt.tensorrt.stores import limits_of, plans_for

POOL = 2048  # tokens
PICTURE = {"seed": 1, "height": 64, "width": 64, "num_timesteps": 25}
PARTS = {
    "compared": "plans compared",
    "drawn": "a picture, no CUDA graphs",
    "played": "a picture, CUDA graphs",
}
MOST = 120  # seconds of one of them


def plans_part(add: Callable[[str, Callable[[], Any]], Any], artefact: Path) -> None:
    for part, told in PARTS.items():
        add(f"{artefact.name}: TensorRT, {told}", lambda part=part: _apart(artefact, part))


def _apart(artefact: Path, part: str) -> dict[str, Any]:
    command = [sys.executable, __file__, str(artefact), part]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MOST)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise RuntimeError(f"ended with {done.returncode}: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compared(artefact: Path) -> dict[str, Any]:
    """By graph and output: the relative distance, None for what is not finite."""
    manifest = read_manifest(artefact)
    limits = limits_of(manifest, None, None, None, POOL)
    settings = Settings(stated=manifest.arithmetic, plans=plans_for(manifest, limits, POOL))
    engine: Any = open_engine("tensorrt", "cuda", settings)
    found = {}
    for one in check_plans(manifest, engine, limits):
        found[one.graph] = {o.output: o.relative_l2 for o in one.outputs} | {"passed": one.passed}
    return {"engine": str(engine.info), "plans": found}


def drawn(artefact: Path, played: bool = False) -> dict[str, Any]:
    """Seconds of a warm picture."""
    with bagel_rt.load(artefact, "tensorrt", "cuda", cache_tokens=POOL, cuda_graphs=played) as bagel:
        bagel.generate("a red cube", **PICTURE)
        start = time.perf_counter()
        bagel.generate("a red cube", **PICTURE)
        return {"s": round(time.perf_counter() - start, 3), "engine": str(bagel.engine)}


def main(artefact: str, part: str) -> None:
    made = compared(Path(artefact)) if part == "compared" else drawn(Path(artefact), part == "played")
    print(json.dumps(made))


if __name__ == "__main__":
    main(*sys.argv[1:])

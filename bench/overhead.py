"""How much of a picture's time is spent outside the engine?  python bench/overhead.py [--backend NAME] [--model DIR]

Draws the recorded edit of tests/golden (64 x 96 pixels, 3 layers of 64: so small that Python shows) and separates the
time inside engine calls from the rest, per denoising step and per call. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bagel_engines import open_engine
from bagel_rt.api import Bagel
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.model.graphs import Graphs
from bench.timing import machine

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"


class Stopwatch:
    """Seconds spent in engine calls."""

    def __init__(self):
        self.seconds = 0.0


class TimedRunner:
    def __init__(self, runner, watch: Stopwatch):
        self._runner, self._watch = runner, watch
        self.inputs, self.outputs = runner.inputs, runner.outputs

    def run(self, inputs, outputs, held=()):
        start = time.perf_counter()
        out = self._runner.run(inputs, outputs, held)
        self._watch.seconds += time.perf_counter() - start
        return out


class TimedEngine:
    def __init__(self, engine, watch: Stopwatch):
        self._engine, self._watch = engine, watch
        self.info, self.takes_zero_rows = engine.info, engine.takes_zero_rows
        self.hold, self.cache = engine.hold, engine.cache

    def load(self, graph, prime=None):
        return TimedRunner(self._engine.load(graph, prime), self._watch)


def golden_artefact(folder: Path) -> Path:
    """The recorded runs' checkpoint, exported."""
    from bagel_export.artefact.export import export

    checkpoint = folder / "checkpoint"
    shutil.copytree(GOLDEN / "checkpoint", checkpoint)
    subprocess.run([sys.executable, GOLDEN / "make_checkpoint.py", checkpoint], check=True)
    for _ in export(checkpoint, folder / "artefact", verify=False):
        pass
    return folder / "artefact"


def measure(model: Path, backend: str, repeats: int) -> dict:
    watch = Stopwatch()
    manifest = read_manifest(model)
    engine = TimedEngine(open_engine(backend), watch)
    photo = np.load(GOLDEN / "cases" / "edit_basic.npz")["input0.rgb"]
    steps: list[tuple[float, float]] = []  # wall and engine seconds of one denoising step
    calls: list[tuple[float, float]] = []
    with Bagel(manifest, Graphs(manifest, engine)) as bagel:
        last = [0.0, 0.0]

        def on_progress(event):
            now = [time.perf_counter(), watch.seconds]
            if event.stage == "drawing" and event.done > 1:
                steps.append((now[0] - last[0], now[1] - last[1]))
            last[:] = now

        for i in range(repeats + 1):
            if i == 1:
                steps.clear()  # the first picture opens the graphs
            start, inside = time.perf_counter(), watch.seconds
            bagel.edit(photo, "Make the sky green.", seed=42, num_timesteps=25, on_progress=on_progress)
            if i:
                calls.append((time.perf_counter() - start, watch.seconds - inside))
    share = lambda pairs: statistics.median(1 - inside / wall for wall, inside in pairs)  # noqa: E731
    return {
        "question": "share of wall time outside engine calls, edit of 64x96 px, 3 branches",
        "engine": str(engine.info),
        "step_overhead_share": round(share(steps), 4),
        "step_ms": round(1e3 * statistics.median(wall for wall, _ in steps), 3),
        "step_overhead_ms": round(1e3 * statistics.median(wall - inside for wall, inside in steps), 3),
        "call_overhead_share": round(share(calls), 4),
        "pictures": repeats,
        **machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="artefact (default: the recorded checkpoint, exported now)")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(args.model or golden_artefact(Path(folder)), args.backend, args.repeats)))


if __name__ == "__main__":
    main()

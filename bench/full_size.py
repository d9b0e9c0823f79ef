"""Does the released size fit a small machine?  python bench/full_size.py --work DIR [--precisions int8 int4] [--small]

Writes a random checkpoint of BAGEL-7B-MoT's shape (29.2 GB; the disk is asked first), exports it in one precision
after the other, and really runs each artefact in a process of its own: a 512 x 512 picture, an edit of it, 64 tokens of
answer. States time, the peak of anonymous + shared memory (what cannot be given back to the disk) and VmHWM (which
counts mapped files) of the export and of each run. One artefact at a time; everything is removed at the end unless
--keep. A checkpoint that is there already is used again. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bagel_export.checkpoint.synthetic import RELEASED, Shape, write_checkpoint
from bench.memory import planned
from bench.timing import machine, save
from bench.watch import watched

CHECKPOINT_BYTES, LARGEST_ARTEFACT = 29.6e9, 18e9
PLANNED_AS = {"draw": "picture", "edit": "edit", "ask": "text"}
RUN = """
import json, sys, time
from bagel_rt.api import load
from PIL import Image
model, arithmetic, side, points, tokens, work = sys.argv[1:]
side, points = int(side), int(points)
times, calls, start = {}, {}, time.perf_counter()
with load(model, "openvino", arithmetic=arithmetic) as bagel:
    def timed(name, make):
        start, before = time.perf_counter(), dict(bagel.graphs.calls)
        out = make()
        times[name] = round(time.perf_counter() - start, 2)
        calls[name] = {k: n - before.get(k, 0) for k, n in bagel.graphs.calls.items() if n > before.get(k, 0)}
        return out
    size = dict(height=side, width=side, seed=1, num_timesteps=points)
    if work == "draw":
        timed("draw", lambda: bagel.generate("a red cube on a wooden table", **size))
    elif work == "edit":
        photo = Image.new("RGB", (side, side), "gray")
        timed("edit", lambda: bagel.edit(photo, "make it green", seed=1, num_timesteps=points))
    else:
        answer = timed("ask", lambda: bagel.ask("What is a cube?", max_tokens=int(tokens)))
        times["tokens"] = len(answer.token_ids)
    times["loading_and_all"] = round(time.perf_counter() - start, 2)
    print(json.dumps({"engine": bagel.engine, "seconds": times, "calls": calls}))
"""


def check_disk(folder: Path, checkpoint_there: bool) -> None:
    needed = LARGEST_ARTEFACT + (0 if checkpoint_there else CHECKPOINT_BYTES)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(
            f"{folder}: {free / 1e9:.0f} GB are free, {needed / 1e9:.0f} are needed; choose another --work"
        )


def measured(checkpoint: Path, model: Path, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """Export and run one precision."""
    out: dict[str, Any] = {}
    command = [sys.executable, "-m", "bagel_rt.cli", "export", "--ckpt", str(checkpoint), "--out", str(model)]
    command += ["--precision", precision, "--overwrite", *([] if args.verify else ["--no-verify"])]
    if args.keep and (model / "bagel_rt.json").is_file():
        print(f"{model} is there already and is not exported again", file=sys.stderr)
    else:
        out["export"] = told(precision, "export", watched(command))
    out["artefact_gb"] = round(sum(p.stat().st_size for p in model.iterdir()) / 1e9, 2)
    for work in args.runs:
        options = [args.arithmetic, str(args.side), str(args.points), str(args.tokens), work]
        found = watched([sys.executable, "-c", RUN, str(model), *options])
        found |= json.loads(found.pop("last_line"))
        found["planned_gib"] = round(planned(model, "openvino", args.arithmetic, "", args.side, PLANNED_AS[work]), 2)
        out[work] = told(precision, work, found)
    return out


def told(precision: str, what: str, found: dict[str, Any]) -> dict[str, Any]:
    print(precision, what, json.dumps(found), file=sys.stderr, flush=True)
    return found


@contextmanager
def removed_at_the_end(path: Path, keep: bool) -> Iterator[Path]:
    try:
        yield path
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder with room for 48 GB")
    parser.add_argument("--precisions", nargs="+", default=["int8", "int4"], metavar="NAME")
    parser.add_argument("--runs", nargs="+", default=["draw", "edit", "ask"], choices=["draw", "edit", "ask"])
    parser.add_argument("--arithmetic", default="int8", help="OpenVINO's (default: int8)")
    parser.add_argument("--side", type=int, default=512, help="of the pictures, pixels")
    parser.add_argument("--points", type=int, default=5, help="num_timesteps; 50 is the official setting")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--verify", action="store_true", help="let the export compare its graphs with PyTorch")
    parser.add_argument("--keep", action="store_true", help="leave checkpoint and artefacts")
    parser.add_argument("--small", action="store_true", help="a small shape: shows that the benchmark runs")
    parser.add_argument("--out", type=Path, help="also write the result to this file, after every precision")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint, report = args.work / "checkpoint", {
        "question": "time and memory of export and use at BAGEL-7B-MoT's size, random weights",
        "shape": "small" if args.small else "BAGEL-7B-MoT, 14.6 billion parameters",
        "pictures": f"{args.side} x {args.side}, num_timesteps {args.points}",
        **machine(),
        "results": {},
    }  # fmt: skip
    there = (checkpoint / "ae.safetensors").is_file()
    if not args.small:
        check_disk(args.work, there)
    with removed_at_the_end(checkpoint, args.keep):
        if not there:
            start = time.perf_counter()
            write_checkpoint(checkpoint, Shape() if args.small else RELEASED)
            print(f"checkpoint written in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        for precision in args.precisions:
            with removed_at_the_end(args.work / re.sub(r"\W", "-", precision), args.keep) as model:
                report["results"][precision] = measured(checkpoint, model, precision, args)
            if args.out:
                save(report, args.out)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

"""Is the memory that `plan` states what is taken?  python bench/memory.py [--model DIR ...] [--small] [--out FILE.json]

Makes each request in a process of its own, on every engine, and sets the peak of its anonymous and shared memory beside
what was planned for it. Without --model: bagel-nano, and a random model with the released VAE and ViT widths and four
layers of 1024. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from bagel_engines.select import installed
from bagel_export.artefact.export import export
from bagel_export.checkpoint.synthetic import RELEASED, write_checkpoint
from bagel_rt.artefact.folders import BUNDLED
from bench.timing import finish, machine
from bench.watch import watched

PRECISIONS = ("fp32", "int8")
MAKE = """
import json, sys
from bagel_rt.api import load
from PIL import Image
model, engine, arithmetic, low, side, work = sys.argv[1:]
side = int(side)
with load(model, engine, arithmetic=None if arithmetic == "-" else arithmetic, low_memory=low == "low") as bagel:
    if work == "picture":
        bagel.generate("a red cube", height=side, width=side, seed=1, num_timesteps=3)
    elif work == "edit":
        bagel.edit(Image.new("RGB", (side, side)), "a red cube", height=side, width=side, seed=1, num_timesteps=3)
    else:
        bagel.ask("a red cube", Image.new("RGB", (side, side)), max_tokens=9)
"""


def planned(model: Path, engine: str, arithmetic: str, low: str, side: int, work: str) -> float:
    """GiB, from the command itself."""
    command = [sys.executable, "-m", "bagel_rt.cli", "plan", "--model", str(model), "--backend", engine, "--no-time"]
    command += ["--num-timesteps", "3", "--prompt", "a red cube", "--json", "--max-memory", "999"]
    command += [] if work == "text" else ["--height", str(side), "--width", str(side)]
    command += [] if arithmetic == "-" else ["--arithmetic", arithmetic]
    command += ["--low-memory"] if low == "low" else []
    command += {"picture": [], "edit": ["--edit"], "answer": ["--ask", "--tokens", "8"], "text": ["--ask"]}[work]
    (found,) = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found["memory_bytes"]["in all"] / 2**30


def compared(model: Path, sides: list[int], works: list[str]) -> list[dict[str, Any]]:
    rows = []
    for engine in installed():
        for arithmetic in ("-", "bfloat16") if engine == "openvino" else ("-",):
            for low in ("", "low"):
                for side in sides:
                    for work in works:
                        how = (str(model), engine, arithmetic, low, str(side), work)
                        plan = planned(model, engine, arithmetic, low, side, work)
                        if plan > psutil.virtual_memory().available / 2**30:
                            continue
                        taken = watched([sys.executable, "-c", MAKE, *how])["peak_anonymous_and_shared_gib"]
                        row = dict(zip(("engine", "arithmetic", "low_memory", "side", "work"), how[1:], strict=True))
                        row |= {"planned_gib": round(plan, 3), "taken_gib": taken, "ratio": round(plan / taken, 3)}
                        print(json.dumps(row), file=sys.stderr, flush=True)
                        rows.append(row)
    return rows


def models(folder: Path) -> dict[str, Path]:
    """bagel-nano, and a wider one that is made here."""
    llm = {"hidden_size": 1024, "intermediate_size": 4736, "num_hidden_layers": 4, "num_attention_heads": 8}
    wide = replace(RELEASED.with_llm(**llm, num_key_value_heads=2, vocab_size=32000), vit=RELEASED.vit)
    wide = replace(wide, vit=replace(wide.vit, num_hidden_layers=6))
    checkpoint, found = write_checkpoint(folder / "wide", wide), {"bagel-nano": BUNDLED}
    for precision in PRECISIONS:
        found[f"wide {precision}"] = folder / precision
        for _ in export(checkpoint, folder / precision, precision=precision, verify=False):
            pass
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", help="an artefact (repeatable)")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 1024], help="of pictures, pixels")
    parser.add_argument("--works", nargs="+", default=["picture", "edit", "answer"])
    parser.add_argument("--small", action="store_true", help="one picture of bagel-nano: shows that the benchmark runs")
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "question": "memory planned against memory taken, anonymous and shared, GiB",
        **machine(),
        "results": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        if args.small:
            chosen = {"bagel-nano": BUNDLED}
        elif args.model:
            chosen = {path.name: path for path in args.model}
        else:
            chosen = models(Path(folder))
        for name, model in chosen.items():
            sides = [64] if model == BUNDLED else args.sides
            report["results"][name] = compared(model, sides, ["picture"] if args.small else args.works)
    ratios = [row["ratio"] for rows in report["results"].values() for row in rows]
    report["ratios"] = {"least": min(ratios), "most": max(ratios)} if ratios else {}
    finish(report, args.out)


if __name__ == "__main__":
    main()

"""What do solvers, step caches and guidance rules cost, beside plain fewer steps?

    python -m bench.nano.shortcuts --model bagel_rt/models/bagel-nano --state DIR --out FILE.json --plot FILE.png

bagel-nano draws the same held-out prompts with the same seeds in each way. By way: the share that is right, its
difference from the default pair by pair, the distance of the latents, and how often the generation expert was
evaluated, which is what a picture costs. A cache or solver is compared with Euler's steps at as many evaluations, read
off between the two nearest plain points. A run that was stopped goes on from its state folder. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

import bagel_rt
from bagel_rt.api import Bagel
from bench.nano.cases import DRAWING, Case, all_cases
from bench.nano.score import is_right, paired, wilson
from bench.timing import finish, machine

SIDE = 64  # what bagel-nano was trained to draw
FIFTH = "11111" + "00001" * 8 + "0001"
ZERO_STAR = {"cfg_rule": "cfg_zero_star"}
GUIDED = {"cfg_interval": (0.0, 1.0)}  # rules of guidance act most where it always acts


@dataclass(frozen=True)
class Way:
    name: str
    group: str
    options: dict[str, Any] = field(default_factory=dict)


def points(*counts: int, **options: Any) -> list[tuple[int, dict[str, Any]]]:
    return [(n, {"num_timesteps": n, **options}) for n in counts]


WAYS = (
    *(Way(f"euler, {n} points", "plain", o) for n, o in points(50, 33, 26, 21, 17, 13, 10, 8)),
    *(Way(f"heun, {n} points", "solver", o) for n, o in points(14, 9, 7, solver="heun")),
    *(Way(f"dpm++2m, {n} points", "solver", o) for n, o in points(26, 17, 13, 8, solver="dpm++2m")),
    *(Way(f"unipc, {n} points", "solver", o) for n, o in points(26, 17, 13, 8, solver="unipc")),
    Way("taylorseer", "cache", {"step_cache": "taylorseer"}),
    Way("polynomial", "cache", {"step_cache": "polynomial"}),
    Way("exponential", "cache", {"step_cache": "exponential"}),
    Way("exponential, every fifth step", "cache", {"step_cache": "exponential", "step_mask": FIFTH}),
    *(
        Way(f"easycache, {x:g}", "cache", {"step_cache": "easycache", "step_cache_threshold": x})
        for x in (0.02, 0.05, 0.1, 0.2)
    ),
    *(Way(f"guidance ends at {x:g}", "cache", {"cfg_stop_similarity": x}) for x in (0.9, 0.97, 0.99)),
    Way("guidance always", "guidance", GUIDED),
    Way("guidance always, cfg_zero_star", "guidance", {**GUIDED, **ZERO_STAR}),
    Way("guidance always, cfg_zero_star, 1 zero step", "guidance", {**GUIDED, **ZERO_STAR, "cfg_zero_steps": 1}),
    Way("guidance always, apg", "guidance", {**GUIDED, "cfg_rule": "apg"}),
    Way("guidance always, apg, eta 1", "guidance", {**GUIDED, "cfg_rule": "apg", "apg_eta": 1.0}),
    Way("twice the size", "size", {"height": 128, "width": 128, "stretch_positions": True}),
    *(
        Way(
            f"twice the size, first pass 0.5, then {x:g} of the steps",
            "size",
            {"height": 128, "width": 128, "stretch_positions": True, "first_pass": 0.5, "second_pass_strength": x},
        )
        for x in (0.2, 0.4, 0.6)
    ),
)  # fmt: skip


def cases(per_category: int) -> list[Case]:
    found: dict[str, list[Case]] = {}
    for case in all_cases():
        if case.category in DRAWING:
            found.setdefault(case.category, []).append(case)
    return [case for group in found.values() for case in group[:per_category]]


def kept(state: Path, way: Way) -> Path:
    return state / f"{way.name.replace(' ', '-').replace(',', '')}.npz"


def draw(bagel: Bagel, way: Way, asked: list[Case], into: Path) -> None:
    """Marks, evaluations and latents of a way, kept in a file."""
    marks, calls, latents = [], [], []
    for case in tqdm(asked, desc=way.name, unit="picture"):
        bagel.graphs.calls.clear()
        result = bagel.generate(case.prompt, seed=case.seed, **way.options)
        calls.append(bagel.graphs.calls["gen_step"])
        marks.append(is_right(case, result.image.resize((SIDE, SIDE), Image.Resampling.BOX), None))
        latents.append(result.latent)
    np.savez_compressed(into, marks=np.array(marks), calls=calls, latents=np.stack(latents))


def row(way: Way, found: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    marks = found["marks"].astype(int)
    low, high = wilson(int(marks.sum()), len(marks))
    return {
        "way": way.name,
        "group": way.group,
        "options": way.options,
        "evaluations": round(float(np.mean(found["calls"])), 1),
        "right": round(float(marks.mean()), 4),
        "interval": [round(low, 4), round(high, 4)],
        "paired": paired(marks, plain["marks"].astype(int)),
        "latents_relative_l2": distance(found["latents"], plain["latents"]),
    }


def distance(mine: np.ndarray, other: np.ndarray) -> float | None:
    if mine.shape != other.shape:
        return None
    pairs = zip(mine, other, strict=True)
    return float(f"{np.median([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]):.3g}")


def beside_plain(rows: list[dict[str, Any]]) -> None:
    """Adds to each row what Euler's fewer steps give at as many evaluations."""
    plain = sorted((r for r in rows if r["group"] == "plain"), key=lambda r: r["evaluations"])
    at = [r["evaluations"] for r in plain]
    for one in rows:
        if one["group"] in ("solver", "cache"):
            one["plain_there"] = {
                key: round(float(np.interp(one["evaluations"], at, [r[key] for r in plain])), 4)
                for key in ("right", "latents_relative_l2")
            }
            one["beats_plain"] = one["latents_relative_l2"] < one["plain_there"]["latents_relative_l2"]


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """Distance from the default by evaluations, of what has both."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for group, style in (("plain", "o-"), ("solver", "s"), ("cache", "^")):
        given = [r for r in rows if r["group"] == group and r["latents_relative_l2"]]
        given.sort(key=lambda r: r["evaluations"])
        axes.plot([r["evaluations"] for r in given], [r["latents_relative_l2"] for r in given], style, label=group)
        for r in given if group != "plain" else ():
            at = (r["evaluations"], r["latents_relative_l2"])
            axes.annotate(r["way"], at, fontsize=6, xytext=(4, 2), textcoords="offset points")
    axes.set(xlabel="evaluations of the generation expert a picture", ylabel="distance of the latents", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True, help="folder that a stopped run goes on from")
    parser.add_argument("--per-category", type=int, default=16, help="prompts of each of the six kinds")
    parser.add_argument("--only", nargs="*", help="groups: plain (always), solver, cache, guidance, size")
    parser.add_argument("--at-most", type=int, metavar="N", help="so many ways in this run")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    args.state.mkdir(parents=True, exist_ok=True)
    asked = cases(args.per_category)
    ways = [w for w in WAYS if not args.only or w.group in ("plain", *args.only)]
    with bagel_rt.load(args.model, "onnxruntime") as bagel:
        waiting = [way for way in ways if not kept(args.state, way).exists()]
        for way in waiting[: args.at_most]:
            draw(bagel, way, asked, kept(args.state, way))
        model, engine = bagel.model, bagel.engine
    if len(waiting) > len(waiting[: args.at_most]):
        print(f"{len(waiting) - args.at_most} ways are left: the same command goes on")
        return
    found = {way.name: dict(np.load(kept(args.state, way))) for way in ways}
    rows = [row(way, found[way.name], found[WAYS[0].name]) for way in ways]
    beside_plain(rows)
    if args.plot:
        plot(rows, args.plot)
    about = {"bench": "nano/shortcuts", "model": model, "engine": engine, **machine(), "cases": len(asked)}
    finish({**about, "rows": rows}, args.out)


if __name__ == "__main__":
    main()

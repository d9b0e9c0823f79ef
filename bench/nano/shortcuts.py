"""What do solvers, step caches and guidance rules cost, beside plain fewer steps?

    python -m bench.nano.shortcuts --model bagel_rt/models/bagel-nano --state DIR --out FILE.json --plot FILE.png

bagel-nano draws and edits the same held-out cases with the same seeds in each way. By way: the share that is right,
its difference from the default pair by pair, and how often the generation expert was evaluated, which is what a picture
costs. Two distances of the latents: from the flow's own end (Euler with 200 points), which solvers approach, and from
Euler's 50 points, BAGEL's own picture, which step caches approach. Each is set beside plain steps at as many
evaluations, read off between the two nearest points. Guidance that begins in the middle makes the flow jump there, so
solvers are also measured where guidance always acts. A run that was stopped goes on from its state folder. Ends in one
JSON line.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

import bagel_rt
from bagel_rt.api import Bagel
from bagel_rt.results import ImageResult
from bench.nano.cases import DRAWING, Case, all_cases
from bench.nano.intervals import paired, wilson
from bench.nano.score import is_right, result
from bench.timing import finish, machine

SIDE = 64  # what bagel-nano was trained to draw
FIFTH = "11111" + "00001" * 8 + "0001"
ZERO_STAR = {"cfg_rule": "cfg_zero_star"}
GUIDED = {"cfg_interval": (0.0, 1.0)}  # rules of guidance act most where it always acts


@dataclass(frozen=True)
class Way:
    """One way of drawing. `always` says that guidance acts at every step, `plain` that it is Euler alone."""

    name: str
    group: str
    options: dict[str, Any] = field(default_factory=dict)
    always: bool = False
    plain: bool = False

    @property
    def exact(self) -> str:
        return EXACT_ALWAYS.name if self.always else EXACT.name


def points(*counts: int, **options: Any) -> list[tuple[int, dict[str, Any]]]:
    return [(n, {"num_timesteps": n, **options}) for n in counts]


def solvers(group: str, **more: Any) -> list[Way]:
    """The same points by each solver."""
    given = [
        *points(14, 9, 7, solver="heun"),
        *(p for name in ("dpm++2m", "unipc") for p in points(26, 17, 13, 8, solver=name)),
    ]
    end = ", guidance always" if more else ""
    return [Way(f"{o['solver']}, {n} points{end}", group, {**o, **more}, bool(more)) for n, o in given]


EXACT = Way("euler, 200 points", "exact", {"num_timesteps": 200})
EXACT_ALWAYS = Way("euler, 200 points, guidance always", "exact", {"num_timesteps": 200, **GUIDED}, True)
PLAIN = tuple(Way(f"euler, {n} points", "plain", o, plain=True) for n, o in points(50, 33, 26, 21, 17, 13, 10, 8))
WAYS = (
    *PLAIN,
    EXACT,
    *solvers("solver"),
    Way("taylorseer", "cache", {"step_cache": "taylorseer"}),
    Way("polynomial", "cache", {"step_cache": "polynomial"}),
    Way("exponential", "cache", {"step_cache": "exponential"}),
    Way("exponential, every fifth step", "cache", {"step_cache": "exponential", "step_mask": FIFTH}),
    *(
        Way(f"easycache, {x:g}", "cache", {"step_cache": "easycache", "step_cache_threshold": x})
        for x in (0.02, 0.05, 0.1, 0.2)
    ),
    *(Way(f"guidance ends at {x:g}", "cache", {"cfg_stop_similarity": x}) for x in (0.9, 0.97, 0.99)),
    Way("guidance always", "guidance", GUIDED, True),
    Way("guidance always, cfg_zero_star", "guidance", {**GUIDED, **ZERO_STAR}, True),
    Way("guidance always, cfg_zero_star, 1 zero step", "guidance", {**GUIDED, **ZERO_STAR, "cfg_zero_steps": 1}, True),
    Way("guidance always, apg", "guidance", {**GUIDED, "cfg_rule": "apg"}, True),
    Way("guidance always, apg, eta 1", "guidance", {**GUIDED, "cfg_rule": "apg", "apg_eta": 1.0}, True),
    EXACT_ALWAYS,
    *(
        Way(f"euler, {n} points, guidance always", "solver, guidance always", {**o, **GUIDED}, True, True)
        for n, o in points(50, 33, 26, 17, 13, 8)
    ),
    *solvers("solver, guidance always", **GUIDED),
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
EDITED = ("plain", "exact", "solver", "cache")  # groups that edits are drawn with, too: guidance always acts in them


def cases(per_category: int, edits: int) -> list[Case]:
    found: dict[str, list[Case]] = {}
    for case in all_cases():
        if case.category in (*DRAWING, "edits"):
            found.setdefault(case.category, []).append(case)
    return [c for name, group in found.items() for c in group[: edits if name == "edits" else per_category]]


def kept(state: Path, way: Way) -> Path:
    return state / f"{way.name.replace(' ', '-').replace(',', '')}.npz"


def draw(bagel: Bagel, way: Way, asked: list[Case], into: Path) -> None:
    """Marks, evaluations, processor seconds and latents of a way, kept in a file."""
    marks, calls, seconds, latents = [], [], [], []
    for case in tqdm(fitting(way, asked), desc=way.name, unit="picture"):
        bagel.graphs.calls.clear()
        begun = time.process_time()
        drawn = result(bagel, case, {**way.options, "preset": "notebook"})
        assert isinstance(drawn, ImageResult)
        seconds.append(time.process_time() - begun)
        calls.append(bagel.graphs.calls["gen_step"])
        marks.append(is_right(case, drawn.image.resize((SIDE, SIDE), Image.Resampling.BOX), None))
        latents.append(drawn.latent)
    np.savez_compressed(into, marks=np.array(marks), calls=calls, seconds=seconds, latents=np.stack(latents))


def fitting(way: Way, asked: list[Case]) -> list[Case]:
    return [case for case in asked if case.edit is None or way.group in EDITED]


def drawn_by(way: Way, asked: list[Case], edits: bool, found: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a way's file says of the drawings alone, or of the edits."""
    chosen = np.array([(case.edit is not None) == edits for case in fitting(way, asked)])
    return {name: np.asarray(values)[chosen] for name, values in found.items()}


def row(way: Way, found: dict[str, Any], default: dict[str, Any], exact: dict[str, Any]) -> dict[str, Any]:
    marks = found["marks"].astype(int)
    low, high = wilson(int(marks.sum()), len(marks))
    return {
        "way": way.name,
        "group": way.group,
        "plain": way.plain,
        "options": way.options,
        "evaluations": round(float(np.mean(found["calls"])), 1),
        "processor_seconds": round(float(np.median(found["seconds"])), 3),
        "right": round(float(marks.mean()), 4),
        "interval": [round(low, 4), round(high, 4)],
        "paired": paired(marks, default["marks"].astype(int)),
        "from_default": distance(found["latents"], default["latents"]),
        "from_end": distance(found["latents"], exact["latents"]),
    }


def distance(mine: np.ndarray, other: np.ndarray) -> float | None:
    """Relative L2, the median over pictures; None where the sizes are not the same."""
    if mine.shape != other.shape:
        return None
    pairs = zip(mine, other, strict=True)
    return float(f"{np.median([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]):.3g}")


def ruler(group: str) -> str:
    """What a group is measured by: solvers approach the flow's end, caches BAGEL's own 50 points."""
    return "from_end" if group.startswith("solver") else "from_default"


def beside_plain(rows: list[dict[str, Any]], group: str, plain_group: str) -> None:
    """Adds to each row of a group what Euler's fewer steps give at as many evaluations, by the group's ruler."""
    by = ruler(group)
    plain = sorted((r for r in rows if r["plain"] and r["group"] == plain_group), key=lambda r: r["evaluations"])
    at = [r["evaluations"] for r in plain]
    for one in rows:
        if one["group"] == group and not one["plain"]:
            there = float(np.interp(one["evaluations"], at, [r[by] for r in plain]))
            right = float(np.interp(one["evaluations"], at, [r["right"] for r in plain]))
            one["plain_there"] = {"right": round(right, 4), by: float(f"{there:.3g}")}
            one["beats_plain"] = one[by] < there


def table(ways: list[Way], asked: list[Case], found: dict[str, Any], edits: bool) -> list[dict[str, Any]]:
    """A row for each way that drew such cases."""
    given = [way for way in ways if not edits or way.group in EDITED]
    of = {way.name: drawn_by(way, asked, edits, found[way.name]) for way in given}
    rows = [row(way, of[way.name], of[PLAIN[0].name], of.get(way.exact, of[EXACT.name])) for way in given]
    for group, plain in (("solver", "plain"), ("cache", "plain"), ("solver, guidance always",) * 2):
        beside_plain(rows, group, plain)
    return rows


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """Distances by evaluations: of caches from BAGEL's 50 points, of solvers from the flow's end."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    panels = zip(
        figure.subplots(1, 3),
        (("cache", "plain"), ("solver", "plain"), ("solver, guidance always", "solver, guidance always")),
        ("caches: from 50 points", "solvers: from the flow's end", "the same, guidance always"),
        strict=True,
    )
    for axes, (group, plain), title in panels:
        by = ruler(group)
        draw_points(axes, [r for r in rows if r["plain"] and r["group"] == plain], by, "o-", named=False)
        draw_points(axes, [r for r in rows if not r["plain"] and r["group"] == group], by, "^", named=True)
        axes.set(title=title, xlabel="evaluations a picture", ylabel="distance of the latents", yscale="log")
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=90)


def draw_points(axes: Axes, rows: list[dict[str, Any]], by: str, style: str, named: bool) -> None:
    given = sorted((r for r in rows if r[by]), key=lambda r: r["evaluations"])
    axes.plot([r["evaluations"] for r in given], [r[by] for r in given], style)
    for r in given if named else ():
        name = r["way"].replace(", guidance always", "")
        axes.annotate(name, (r["evaluations"], r[by]), fontsize=6, xytext=(4, 2), textcoords="offset points")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True, help="folder that a stopped run goes on from")
    parser.add_argument("--per-category", type=int, default=16, help="prompts of each of the six kinds")
    parser.add_argument("--only", nargs="*", help="groups: plain and exact (always), solver, cache, ...")
    parser.add_argument("--edits", type=int, default=48, help="edits among the cases")
    parser.add_argument("--at-most", type=int, metavar="N", help="so many ways in this run")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    args.state.mkdir(parents=True, exist_ok=True)
    asked = cases(args.per_category, args.edits)
    ways = [w for w in WAYS if not args.only or w.group in ("plain", "exact", *args.only)]
    with bagel_rt.load(args.model, "onnxruntime") as bagel:
        waiting = [way for way in ways if not kept(args.state, way).exists()]
        for way in waiting[: args.at_most]:
            draw(bagel, way, asked, kept(args.state, way))
        model, engine = bagel.model, bagel.engine
    if len(waiting) > len(waiting[: args.at_most]):
        print(f"{len(waiting) - args.at_most} ways are left: the same command goes on")
        return
    found = {way.name: dict(np.load(kept(args.state, way))) for way in ways}
    rows = table(ways, asked, found, edits=False)
    edits = table(ways, asked, found, edits=True) if args.edits else []
    if args.plot:
        plot(rows, args.plot)
    about = {"bench": "nano/shortcuts", "model": model, "engine": engine, **machine(), "cases": len(asked)}
    finish({**about, "edits": args.edits, "rows": rows, "edit_rows": edits}, args.out)


if __name__ == "__main__":
    main()

"""Draws a training run's losses: python -m bench.nano.plot --state DIR --out FILE.png"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

SMOOTH = 25  # logged steps in a running mean


def series(log: Path, step: str, value: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a log's lines that have both; of a step done twice, after a resumption, the later one.

    None of a log that is not there: a VAE that came with a checkpoint has none.
    """
    if not log.exists():
        return np.zeros(0), np.zeros(0)
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    points = {row[step]: row[value] for row in rows if step in row and value in row}
    steps = np.array(sorted(points))
    return steps, np.array([points[s] for s in steps.tolist()])


def smoothed(values: np.ndarray) -> np.ndarray:
    """Running mean over the last SMOOTH values, over fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(0, np.arange(1, len(sums)) - SMOOTH)
    return (sums[1:] - sums[first]) / (np.arange(1, len(sums)) - first)


def draw(state: Path, out: Path) -> None:
    panels = (
        ("vae.jsonl", "step", "error", "VAE: reconstruction"),
        ("model.jsonl", "step", "mse", "model: velocity, mean squared error"),
        ("model.jsonl", "step", "ce", "model: text, cross-entropy"),
    )
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (file, step, value, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        steps, values = series(state / file, step, value)
        axes.plot(steps, values, color="#bbb", linewidth=0.6)
        axes.plot(steps, smoothed(values), color="#236")
        axes.set(title=title, xlabel="step", yscale="log")
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    draw(args.state, args.out)


if __name__ == "__main__":
    main()

"""A scheduler of one's own: begins a picture for each of many seeds, keeps the most promising, and cancels the rest.

python examples/best_of_many_seeds.py [PROMPT]    writes best-SEED.png, ...
"""

import sys

import numpy as np

import bagel_rt

SEEDS, LOOK_AT, KEPT = range(6), 0.3, 2  # begun; the share of steps after which they are judged; finished


def score(image) -> float:
    """How good a preview is: here its contrast; put a classifier in its place."""
    return float(np.asarray(image, np.float32).std())


prompt = sys.argv[1] if len(sys.argv) > 1 else "two red circles"
with bagel_rt.load("bagel-nano") as bagel:
    streams, scores = {seed: bagel.stream(prompt, seed=seed) for seed in SEEDS}, {}
    for seed, stream in streams.items():
        step = next(e for e in stream if isinstance(e, bagel_rt.Step) and e.done >= LOOK_AT * e.total)
        scores[seed] = score(bagel.preview(step))
    for place, seed in enumerate(sorted(SEEDS, key=lambda seed: -scores[seed])):
        if place < KEPT:
            *_, done = streams[seed]  # read to its end
            done.result.save(f"best-{seed}.png")
        streams[seed].close()  # cancels one that is not finished
        print(f"seed {seed}: score {scores[seed]:.1f}, {f'best-{seed}.png' if place < KEPT else 'cancelled'}")

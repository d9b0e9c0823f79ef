"""Which engine is faster?  python bench/engines.py

A random BAGEL with 4 layers of 1024 (0.1 G parameters in the decoder) on every installed engine, alternating: one
denoising step of a 512 x 512 picture (1024 latents), one text token, the VAE decoder. Medians, and ratios pair by pair.
Ends in one JSON line.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from bagel_engines import installed
from bagel_export.artefact.export import export
from bagel_export.checkpoint.synthetic import Shape, write_checkpoint
from bagel_rt.api import load
from bagel_rt.artefact.manifest import ResizeRule
from bench.timing import machine

ROUNDS = 5


def shape() -> Shape:
    small = Shape(max_latent_size=64, vae_base_width=64, vae_transform=ResizeRule(512, 256, 16))
    return small.with_llm(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2
    )


def times(bagel) -> dict[str, float]:
    """Seconds of one step, one token and one decoding."""
    marks: list[tuple[str, float]] = []
    note = lambda event: marks.append((event.stage, time.perf_counter()))  # noqa: E731
    options = {"height": 512, "width": 512, "seed": 1, "cfg_text_scale": 1.0}
    bagel.generate("a red cube", num_timesteps=3, on_progress=note, **options)
    drawn = [t for stage, t in marks if stage == "drawing"]
    decoded = [t for stage, t in marks if stage == "decoding"]
    marks.clear()
    bagel.ask("a red cube " * 20, max_tokens=17, on_progress=note)
    tokens = [t for _, t in marks]
    return {
        "step_s": drawn[-1] - drawn[-2],
        "vae_decode_s": decoded[-1] - decoded[-2],
        "token_s": (tokens[-1] - tokens[0]) / max(len(tokens) - 1, 1),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "checkpoint", shape())
        for _ in export(checkpoint, Path(folder) / "model", verify=False):
            pass
        engines = {name: load(Path(folder) / "model", backend=name) for name in installed()}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
        for i in range(ROUNDS + 1):
            for name, bagel in engines.items():
                seconds = times(bagel)
                if i:  # the first round opens the graphs
                    runs[name].append(seconds)
        names = {name: bagel.engine for name, bagel in engines.items()}
        for bagel in engines.values():
            bagel.close()
    kinds = ("step_s", "token_s", "vae_decode_s")
    first, *others = runs
    print(
        json.dumps(
            {
                "question": "seconds per denoising step (1024 latents), text token and VAE decoding, by engine",
                "engines": names,
                "median": {
                    name: {k: round(statistics.median(r[k] for r in found), 5) for k in kinds}
                    for name, found in runs.items()
                },
                f"ratio_to_{first}": {
                    name: {
                        k: round(
                            statistics.median(b[k] / a[k] for a, b in zip(runs[first], runs[name], strict=True)), 2
                        )
                        for k in kinds
                    }
                    for name in others
                },
                "rounds": ROUNDS,
                **machine(),
            }
        )
    )


if __name__ == "__main__":
    main()

"""Is a whole picture faster than by the official control flow?  python bench/picture.py [--small] [--out FILE.json]

Text-to-image with the official app's settings (50 points, text guidance 4, image guidance 1.5, interval 0.4 to 1) on
decoder layers of the 7B's shape with random weights. The official way in PyTorch, bfloat16, eager: three contexts with
caches of their own (deep copies, the prompt prefilled into two of them), three forwards in a guided step and one in the
others, 131 in all. bagel-rt's ways: `generate` on OpenVINO, with and without the step cache; a precision alone is
computed in bfloat16, "int8/int8" is int8 weights in int8. Alternating; medians in seconds, ratios round by round. ViT
and VAE are small, so that the decoder is what is compared. Nothing else may run meanwhile. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bagel_export.checkpoint.open import VAE_PREFIX, Checkpoint, open_checkpoint
from bagel_export.checkpoint.synthetic import RELEASED, SMALL_LLM, Shape, write_checkpoint
from bagel_export.checkpoint.tokenizer import load_tokenizer
from bagel_export.reference.bagel import BagelModel
from bagel_export.reference.inference import TorchContext, TorchInference
from bagel_export.reference.language import Rope
from bagel_export.reference.sampling import guided, scales, schedule
from bagel_rt.api import Bagel, load
from bagel_rt.artefact.manifest import ResizeRule
from bagel_rt.options import presets
from bench.timing import against, alternating, kept, machine, save
from bench.ways import exported, way

WAYS = ("int8/int8", "int4/int8", "w8a8", "int8")
OFFICIAL = "official control flow, torch bf16"
PROMPT = "a red cube on a wooden table beside a window, in the evening light, painted in oil"


class Bfloat16(TorchInference):
    """The reference's passes in bfloat16, with rotations rounded as the official code rounds them."""

    forwards = 0

    def empty(self) -> TorchContext:
        none = super().empty()
        return TorchContext(tuple(k.bfloat16() for k in none.keys), tuple(v.bfloat16() for v in none.values))

    def velocity(self, context: TorchContext, x_t: Tensor, t: float, position_ids: Tensor) -> Tensor:
        self.forwards += 1
        return super().velocity(context, x_t.bfloat16(), t, position_ids).float()

    def _rope(self, positions: Tensor) -> Rope:
        cos, sin = super()._rope(positions)
        return cos.bfloat16(), sin.bfloat16()


class Official:
    """A picture's latents by the official control flow."""

    def __init__(self, checkpoint: Checkpoint, options: Any):
        model = BagelModel(checkpoint.config).bfloat16()
        model.load_state_dict(
            {
                k: torch.from_numpy(t.array()).bfloat16()
                for k, t in checkpoint.by_parameter().items()
                if not k.startswith(VAE_PREFIX)
            }
        )
        tokenizer, ids = load_tokenizer(checkpoint.tokenizer, checkpoint.config.llm.vocab_size)
        self.run, self._options = Bfloat16(model, **ids), options
        self._ids = [ids["im_start"], *tokenizer.encode(PROMPT, add_special_tokens=False).ids, ids["im_end"]]
        self._grid = checkpoint.config.max_latent_size

    def latents(self) -> np.ndarray:
        options, side = self._options, self._options.height // 16
        places = (torch.arange(side)[:, None] * self._grid + torch.arange(side)).reshape(-1)
        with torch.no_grad():
            cond = self.run.empty()
            text, image = copy.deepcopy(cond), copy.deepcopy(cond)
            cond, image = self.run.text(cond, self._ids)[0], self.run.text(image, self._ids)[0]
            x = torch.randn(side * side, 64, generator=torch.Generator().manual_seed(options.seed))
            for now, after in pairwise(schedule(options.num_timesteps, options.timestep_shift)):
                velocity = lambda context: self.run.velocity(context, x, float(now), places)  # noqa: B023, E731
                text_scale, image_scale = scales(options, now)
                v = velocity(cond)
                of_text = velocity(text) if text_scale > 1 else None
                of_image = velocity(image) if image_scale > 1 else None
                x = x - guided(v, of_text, of_image, options, now) * (now - after)
        return x.numpy()


def shape(small: bool, layers: int) -> Shape:
    llm = SMALL_LLM if small else replace(RELEASED.llm, vocab_size=SMALL_LLM.vocab_size)
    image = ResizeRule(128, 64, 16) if small else ResizeRule(1024, 512, 16)
    sizes = Shape(replace(llm, num_hidden_layers=layers), dtype=torch.bfloat16, vae_transform=image)
    return sizes if small else replace(sizes, max_latent_size=64)


def drawn(bagel: Bagel, options: Any, step_cache: str | None) -> Callable[[], np.ndarray]:
    values = {k: getattr(options, k) for k in ("height", "width", "seed", "num_timesteps", "cfg_img_scale")}
    return lambda: bagel.generate(PROMPT, step_cache=step_cache, **values).latent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a small decoder: shows that the benchmark runs")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024], help="of the picture, pixels")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--points", type=int, default=50, help="num_timesteps (the app: 50)")
    parser.add_argument("--ways", nargs="+", type=way, default=[*map(way, WAYS)], metavar="PRECISION[/ARITHMETIC]")
    parser.add_argument("--rounds", type=int, nargs="+", default=[2, 1], help="for each side")
    parser.add_argument("--out", type=Path, help="also write the result to this file, after every side")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "question": "a whole text-to-image against the official control flow (ratio of time), same layers",
        "shape": f"{args.layers} layer(s), {'small' if args.small else 'of BAGEL-7B-MoT, both experts'}",
        "settings": f"app preset, num_timesteps {args.points}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "results": {},
        **machine(),
    }
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(write_checkpoint(Path(folder) / "checkpoint", shape(args.small, args.layers)))
        exported(args.ways, checkpoint.folder, Path(folder))
        models = {w: load(w.artefact(Path(folder)), "openvino", arithmetic=w.arithmetic) for w in args.ways}
        report["engine"] = next(iter(models.values())).engine
        for side, rounds in zip(args.sides, args.rounds, strict=True):
            options = replace(
                presets.defaults(presets.GENERATE, "app"), height=side, width=side, seed=1, num_timesteps=args.points
            )
            official = Official(checkpoint, options)
            runs = {OFFICIAL: official.latents}
            for each, bagel in models.items():
                runs[f"{each}"] = drawn(bagel, options, None)
                runs[f"{each}, step cache"] = drawn(bagel, options, "taylorseer")
            latents: dict[str, np.ndarray] = {}
            row = against(alternating(kept(runs, latents), rounds, warm=False), OFFICIAL)
            for name, found in latents.items():
                exact = latents[OFFICIAL]
                row[name]["latents_apart"] = round(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)), 4)
            row[OFFICIAL]["forwards"] = official.run.forwards // rounds
            report["results"][f"{side} x {side}"] = {"rounds": rounds, **row}
            print(side, json.dumps(row), file=sys.stderr, flush=True)
            if args.out:
                save(report, args.out)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

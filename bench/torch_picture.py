"""A picture by the official control flow in PyTorch, in a process of its own: the peer of bench/picture.py (peer.py).

Three contexts with caches of their own (deep copies, the prompt prefilled into two of them), three forwards in a guided
step and one in the others: 131 forwards in 50 points of the app's settings.
"""

from __future__ import annotations

import copy
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bagel_export.checkpoint.open import VAE_PREFIX, Checkpoint, open_checkpoint
from bagel_export.checkpoint.tokenizer import load_tokenizer
from bagel_export.reference.bagel import BagelModel
from bagel_export.reference.inference import TorchContext, TorchInference
from bagel_export.reference.language import Rope
from bagel_export.reference.sampling import guided, scales, schedule
from bench.peer import DTYPES, Run, serve
from bench.picture import PROMPT, options


class Rounded(TorchInference):
    """The reference's passes in a number format, with rotations rounded as the official code rounds them."""

    dtype = torch.float32

    def empty(self) -> TorchContext:
        none = super().empty()
        return TorchContext(tuple(k.to(self.dtype) for k in none.keys), tuple(v.to(self.dtype) for v in none.values))

    def velocity(self, context: TorchContext, x_t: Tensor, t: float, position_ids: Tensor) -> Tensor:
        return super().velocity(context, x_t.to(self.dtype), t, position_ids).float()

    def _rope(self, positions: Tensor) -> Rope:
        cos, sin = super()._rope(positions)
        return cos.to(self.dtype), sin.to(self.dtype)


class Official:
    """Pictures' latents by the official control flow."""

    def __init__(self, checkpoint: Checkpoint, name: str, compiled: bool):
        dtype = DTYPES[name]
        model = BagelModel(checkpoint.config).to(dtype)
        model.load_state_dict(
            {
                k: torch.from_numpy(t.array()).to(dtype)
                for k, t in checkpoint.by_parameter().items()
                if not k.startswith(VAE_PREFIX)
            }
        )
        if compiled:
            for layer in model.language_model.model.layers:
                layer.step = torch.compile(layer.step)
        tokenizer, ids = load_tokenizer(checkpoint.tokenizer, checkpoint.config.llm.vocab_size)
        self.run = Rounded(model, **ids)
        self.run.dtype = dtype
        self._ids = [ids["im_start"], *tokenizer.encode(PROMPT, add_special_tokens=False).ids, ids["im_end"]]
        self._grid = checkpoint.config.max_latent_size

    @torch.no_grad()
    def latents(self, options: Any) -> np.ndarray:
        side = options.height // 16
        places = (torch.arange(side)[:, None] * self._grid + torch.arange(side)).reshape(-1)
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


def main() -> None:
    checkpoint = open_checkpoint(Path(sys.argv[1]))
    official = cache(lambda name, compiled: Official(checkpoint, name, compiled))

    def prepared(work: str, name: str, compiled: bool) -> Run:
        """work: side and points, as "512 50"."""
        side, points = map(int, work.split())
        return lambda: official(name, compiled).latents(options(side, points))

    serve(prepared)


if __name__ == "__main__":
    main()

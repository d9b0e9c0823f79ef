"""PyTorch's ViT and VAE, in a process of its own: the peer of bench/encoders.py (see peer.py)."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import torch

from bagel_export.checkpoint.open import VAE_PREFIX, open_checkpoint
from bagel_export.onnx.wrappers import build
from bagel_export.reference.bagel import BagelModel
from bagel_export.reference.vae import AutoEncoder
from bagel_rt.artefact.contract import VIT
from bench.encoders import inputs, shape, sides
from bench.peer import DTYPES, Run, serve


def main() -> None:
    checkpoint, small = open_checkpoint(Path(sys.argv[1])), "--small" in sys.argv
    values = {k: torch.from_numpy(t.array()) for k, t in checkpoint.by_parameter().items()}
    vit, works = shape(small).vit, sides(small)

    @cache
    def module(graph: str, name: str) -> torch.nn.Module:
        model, vae = BagelModel(checkpoint.config), AutoEncoder(checkpoint.config.vae_base_width)
        model.load_state_dict({k: v for k, v in values.items() if not k.startswith(VAE_PREFIX)})
        vae.load_state_dict({k.removeprefix(VAE_PREFIX): v for k, v in values.items() if k.startswith(VAE_PREFIX)})
        dtype = DTYPES.get(name, torch.float32)
        made = build(graph, model.to(dtype), vae.to(dtype))
        if name == "int8":
            assert graph == VIT, "torch.ao rounds Linears, and the VAE has none"
            made = torch.ao.quantization.quantize_dynamic(made, {torch.nn.Linear}, torch.qint8)
        return made

    @cache
    def prepared(work: str, name: str, compiled: bool) -> Run:
        graph, side = works[work]
        made = module(graph, name)
        kept = torch.compile(made) if compiled else made
        tensors = {k: torch.from_numpy(v) for k, v in inputs(graph, side, vit.patch_size, vit.grid).items()}

        @torch.no_grad()
        def run():
            return kept(**tensors).numpy()

        return run

    serve(prepared)


if __name__ == "__main__":
    main()

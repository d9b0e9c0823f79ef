"""Whole pictures and texts of other checkpoints against an independent loop in PyTorch: every decoder form."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from golden_cases import LATENT, distance

import bagel_rt
from bagel_export.artefact.export import export
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.synthetic import Shape, write_checkpoint
from bagel_export.checkpoint.tokenizer import load_tokenizer
from bagel_export.reference.inference import TorchInference
from bagel_export.reference.vae import AutoEncoder
from bagel_export.training.unified import BagelForUnifiedMultimodal
from bagel_rt.inputs.images import position_ids, unpatchify

PROMPT, SEED, STEPS = "a red cube", 3, 4
FORMS = {
    "moe": Shape(seed=1).with_llm(layer_module="Qwen2MoEDecoderLayer", num_hidden_layers=1),
    "dense": Shape(seed=2).with_llm(layer_module="Qwen2DecoderLayer", num_hidden_layers=1, qk_norm=False),
}


class TorchLoop:
    """Text-to-image with text guidance, as the official code does it, in a few lines of torch."""

    def __init__(self, folder):
        opened = open_checkpoint(folder)
        tokenizer, ids = load_tokenizer(folder, opened.config.llm.vocab_size)
        model = BagelForUnifiedMultimodal.from_pretrained(folder, strict=True).model
        self.run, self.side = TorchInference(model, **ids), opened.config.max_latent_size
        self.ids = [ids["im_start"], *tokenizer.encode(PROMPT, add_special_tokens=False).ids, ids["im_end"]]
        self.vae = AutoEncoder(opened.config.vae_base_width)
        weights = {k: torch.from_numpy(t.array()) for k, t in opened.tensors.items() if k.startswith("vae.")}
        self.vae.load_state_dict({k.removeprefix("vae."): v for k, v in weights.items()})

    def text(self, tokens: int) -> list[int]:
        return self.run.write(self.run.text(self.run.empty(), self.ids)[0], tokens)[0]

    def latent(self, grid: tuple[int, int]) -> torch.Tensor:
        context, nothing = self.run.text(self.run.empty(), self.ids)[0], self.run.empty()
        torch.manual_seed(SEED)
        x = torch.randn(grid[0] * grid[1], 64)
        places = torch.from_numpy(position_ids(grid, self.side))
        s = torch.linspace(1, 0, STEPS)
        for t, after in pairwise(3 * s / (1 + 2 * s)):
            v = c = self.run.velocity(context, x, float(t), places)
            if t > 0.4:
                u = self.run.velocity(nothing, x, float(t), places)
                v = u + 4.0 * (c - u)
                v = v * (c.norm() / (v.norm() + 1e-8)).clamp(0, 1)
            x = x - v * (t - after)
        return x

    def pixels(self, latent: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        decoded = self.vae.decode(torch.from_numpy(unpatchify(latent, grid, 2))[None])[0]
        return (decoded * 0.5 + 0.5).clamp(0, 1).mul(255).byte().permute(1, 2, 0).numpy()


def compare(checkpoint, artefact, backend, grid):
    with bagel_rt.load(artefact, backend=backend) as bagel, torch.no_grad():
        size = {"height": 16 * grid[0], "width": 16 * grid[1]}
        drawn = bagel.generate(PROMPT, seed=SEED, num_timesteps=STEPS, **size)
        loop = TorchLoop(checkpoint)
        assert distance(drawn.latent, loop.latent(grid)) <= LATENT
        difference = np.asarray(drawn.image).astype(int) - loop.pixels(drawn.latent, grid)
        assert np.abs(difference).max() <= 1
        assert bagel.ask(PROMPT, max_tokens=10).token_ids == loop.text(10)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("grid", [(1, 1), (4, 3), (1, 16), (16, 16)])
def test_pictures_of_every_size_and_text_are_those_of_a_plain_torch_loop(
    small_checkpoint, small_artefact, backend, grid
):
    compare(small_checkpoint, small_artefact, backend, grid)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_other_decoder_forms_give_the_torch_loops_picture_and_text(form, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", FORMS[form])
    list(export(checkpoint, tmp_path / "model", verify=False))
    compare(checkpoint, tmp_path / "model", "onnxruntime", (4, 3))

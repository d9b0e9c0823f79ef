"""The PyTorch reference replays the recorded runs stage by stage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_cases import distance, names, read

from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.reference.inference import TorchInference
from bagel_export.reference.vae import AutoEncoder
from bagel_export.training.unified import BagelForUnifiedMultimodal
from bagel_rt.artefact.manifest import SPECIAL_TOKENS
from bagel_rt.inputs.images import patchify, position_ids
from bagel_rt.inputs.system_prompts import THINK_THEN_ANSWER, THINK_THEN_DRAW

CLOSE = 2e-5  # relative L2; both sides compute in float32 with different kernels
IMAGE_CASES = [n for n in names("t2i", "edit", "interleave") if not read(n).wants_text]
TEXT_CASES = [n for n in names("text", "understand", "interleave") if read(n).wants_text]


class Reference:
    """Model, VAE and tokenizer of the recorded checkpoint."""

    def __init__(self, folder):
        from tokenizers import Tokenizer

        checkpoint = open_checkpoint(folder)
        self.model = BagelForUnifiedMultimodal.from_pretrained(folder, strict=True).model
        self.vae = AutoEncoder(checkpoint.config.vae_base_width)
        self.vae.load_state_dict(
            {k[4:]: torch.from_numpy(t.array()) for k, t in checkpoint.tensors.items() if k.startswith("vae.")}
        )
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ids = {name: self.tokenizer.token_to_id(token) for name, token in SPECIAL_TOKENS.items()}
        self.run = TorchInference(self.model, **ids)
        self._start, self._end = ids["im_start"], ids["im_end"]

    def ids(self, text: str) -> list[int]:
        return [self._start, *self.tokenizer.encode(text, add_special_tokens=False).ids, self._end]

    def normed(self, rows, latents: bool):
        """Final norms as the recorder saw them: markers by the und norm, latents by the gen norm."""
        norm = self.model.language_model.model.final_norm
        if not latents:
            return norm(rows, gen=False)
        return torch.cat([norm(rows[:1], False), norm(rows[1:-1], True), norm(rows[-1:], False)])


@pytest.fixture(scope="module")
def reference(golden_checkpoint):
    with torch.no_grad():
        yield Reference(golden_checkpoint)


class Replay:
    """Walks a recorded case as the official code does, comparing each context pass with the recorded one."""

    def __init__(self, reference, case):
        self.ref, self.case, self.passes, self.images = reference, case, 0, 0
        self.cond = self.cfg_text = self.cfg_img = reference.run.empty()

    def check_pass(self, rows, latents=False):
        wanted = self.case.arrays[f"ctx{self.passes:02d}.hidden_out"]
        assert distance(self.ref.normed(rows, latents), wanted) < CLOSE, f"context pass {self.passes}"
        self.passes += 1

    def text(self, text, both=True):
        ids = self.ref.ids(text)
        self.cond, rows = self.ref.run.text(self.cond, ids)
        self.check_pass(rows)
        if both:
            self.cfg_img, rows = self.ref.run.text(self.cfg_img, ids)
            self.check_pass(rows)

    def item(self, item, with_vae):
        if isinstance(item, str):
            self.cfg_text = self.cond
            self.text(item)
            return
        a, n = self.case.arrays, self.images
        if with_vae:
            pixels = torch.from_numpy(a[f"vae_encode{n}.in"])
            moments = self.ref.vae.encoder(pixels)
            assert distance(moments, a[f"vae_encode{n}.moments"]) < CLOSE
            noise = torch.from_numpy(a[f"noise{n}.vae_encode_noise"])
            latent = self.ref.vae.encode(pixels, noise)
            assert distance(latent, a[f"vae_encode{n}.latent"]) < CLOSE
            grid = (latent.shape[2] // 2, latent.shape[3] // 2)
            rows = torch.from_numpy(patchify(latent[0].numpy(), 2))
            ids = torch.from_numpy(position_ids(grid, 64))
            self.cond, hidden = self.ref.run.latents(self.cond, rows, ids)
            self.check_pass(hidden, latents=True)
        patches, ids = torch.from_numpy(a[f"vit{n}.pixels"]), torch.from_numpy(a[f"vit{n}.pos_ids"])
        features = self.ref.model.vit_model(patches, ids)
        assert distance(features, a[f"vit{n}.out"]) < CLOSE
        assert distance(self.ref.model.connector(features), a[f"vit{n}.connector"]) < CLOSE
        self.cond, hidden = self.ref.run.patches(self.cond, patches, ids)
        self.check_pass(hidden)
        self.cfg_text = self.cond
        self.images += 1

    def check_cache(self, recorded, context):
        """The recorded cache's length and, where they were kept, its keys and values."""
        a = self.case.arrays
        assert context.length == int(a[f"{recorded}.len"])
        if f"{recorded}.k" in a and context.length:
            assert distance(torch.stack(context.keys), a[f"{recorded}.k"]) < CLOSE
            assert distance(torch.stack(context.values), a[f"{recorded}.v"]) < CLOSE

    def check_all_passes_replayed(self):
        assert self.passes == sum(key.endswith(".hidden_out") for key in self.case.arrays)

    def write(self, tokens):
        self.check_cache("text0.kv_before", self.cond)
        ids, logits = self.ref.run.write(self.cond, tokens)
        a = self.case.arrays
        assert ids == a["text0.returned_ids"].tolist()
        count = len(a["text0.logits"])
        assert distance(torch.stack(logits[:count]), a["text0.logits"][: len(logits)]) < CLOSE
        return self.case.meta["texts"][0]


def replay(reference, name) -> Replay:
    case = read(name)
    run, kwargs = Replay(reference, case), case.asked["kwargs"]
    if kwargs.get("think"):
        run.text(THINK_THEN_ANSWER if case.wants_text else THINK_THEN_DRAW)
    for item in case.items:
        run.item(item, with_vae=not case.wants_text)
    return run


@pytest.mark.parametrize("name", TEXT_CASES)
def test_the_reference_writes_the_recorded_text(reference, name):
    run = replay(reference, name)
    run.write(run.case.asked["kwargs"]["max_think_token_n"])
    run.check_all_passes_replayed()


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_the_reference_reproduces_every_stage_of_a_recorded_picture(reference, name):
    run = replay(reference, name)
    a, kwargs = run.case.arrays, run.case.asked["kwargs"]
    if kwargs.get("think"):
        run.text(run.write(kwargs["max_think_token_n"]), both=False)
    for branch, context in (("cond", run.cond), ("cfg_text", run.cfg_text), ("cfg_img", run.cfg_img)):
        run.check_cache(f"kv.{branch}", context)
    run.check_all_passes_replayed()
    z = a["vae_decode.in"]
    ids = torch.from_numpy(position_ids((z.shape[2] // 2, z.shape[3] // 2), 64))
    cached = kwargs.get("enable_taylorseer", False)
    for i, t in enumerate(a["flow.t"][: 5 if cached else None]):  # later steps of a cached run are forecasts
        x_t = torch.from_numpy(a["flow.x_t"][i])
        for branch, context in (("v_cond", run.cond), ("v_text", run.cfg_text), ("v_img", run.cfg_img)):
            if not np.isnan(a[f"flow.{branch}"][i]).any():
                assert distance(run.ref.run.velocity(context, x_t, float(t), ids), a[f"flow.{branch}"][i]) < CLOSE
    assert distance(run.ref.vae.decode(torch.from_numpy(z)), a["vae_decode.out"]) < CLOSE

"""The exported graphs and the runtime against the recorded runs of the official code, on both engines."""

from __future__ import annotations

import numpy as np
import pytest
from golden_cases import LATENT, PIXEL, distance, names, read

import bagel_rt

MODES = ("t2i", "edit", "interleave", "text", "understand")
IMAGES = [n for n in names(*MODES) if not read(n).wants_text]
TEXTS = [n for n in names(*MODES) if read(n).wants_text]


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def bagel(request, golden_artefact):
    with bagel_rt.load(golden_artefact, backend=request.param) as model:
        yield model


@pytest.mark.parametrize("name", IMAGES)
def test_the_picture_is_the_recorded_one(bagel, name):
    case = read(name)
    result = bagel.interleave(case.items, output="image", **case.options)
    assert distance(result.latent, case.arrays["final_latent"]) <= LATENT
    pixels = np.asarray(result.image).astype(int) - case.arrays["image"].astype(int)
    assert np.abs(pixels).max() <= PIXEL
    assert result.text == (case.meta["texts"][0] if case.options.get("think") else None)
    assert bagel.free_tokens == bagel_rt.api.CACHE_TOKENS


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_and_its_tokens_are_the_recorded_ones(bagel, name):
    case = read(name)
    result = bagel.interleave(case.items, output="text", **case.options)
    assert result.text == case.meta["texts"][0]
    assert result.token_ids == case.arrays["text0.returned_ids"].tolist()
    assert bagel.free_tokens == bagel_rt.api.CACHE_TOKENS


def test_generate_edit_and_ask_are_interleave_with_the_notebooks_defaults(bagel):
    case = read("edit_basic")
    photo, prompt = case.items
    assert distance(bagel.edit(photo, prompt, seed=42, num_timesteps=8).latent, case.arrays["final_latent"]) <= LATENT
    case = read("t2i_basic")
    drawn = bagel.generate(case.items[0], seed=42, num_timesteps=8, height=64, width=96)
    assert distance(drawn.latent, case.arrays["final_latent"]) <= LATENT
    case = read("und_basic")
    assert bagel.ask(case.items[1], images=[case.items[0]], max_tokens=40).text == case.meta["texts"][0]


def calls(bagel, run) -> dict[str, int]:
    bagel.graphs.calls.clear()
    run()
    return dict(bagel.graphs.calls)


def test_contexts_of_equal_content_are_computed_once_and_their_velocity_reused(golden_artefact):
    """The app's text-to-image: image guidance 1.5 without an image costs neither a prefill nor an evaluation."""
    case = read("t2i_app_default")
    with bagel_rt.load(golden_artefact, backend="onnxruntime") as bagel:
        made = calls(bagel, lambda: bagel.interleave(case.items, **case.options))
    active = int((case.arrays["flow.scales"][:, 0] > 1).sum())
    steps = len(case.arrays["flow.t"])
    assert made["gen_step"] == 1 + steps + active  # the text, then the branches
    assert made["flow_embed"] == steps


def test_an_edit_encodes_its_image_once_and_prefills_each_segment_once(golden_artefact):
    case = read("edit_basic")
    with bagel_rt.load(golden_artefact, backend="onnxruntime") as bagel:
        made = calls(bagel, lambda: bagel.interleave(case.items, **case.options))
    assert (made["vae_encoder"], made["vit"], made["vae_decoder"]) == (1, 1, 1)
    # VAE rows, ViT rows, the text behind the image, the text alone; three branches of seven steps
    assert made["gen_step"] == 4 + 3 * 7


def test_guidance_that_is_off_costs_nothing(golden_artefact):
    case = read("edit_basic")
    with bagel_rt.load(golden_artefact, backend="onnxruntime") as bagel:
        made = calls(bagel, lambda: bagel.edit(*case.items, seed=1, num_timesteps=4, cfg_text_scale=1.0))
    assert made["gen_step"] == 3 + 3


def test_step_caching_leaves_evaluations_out(golden_artefact):
    case = read("t2i_taylor")
    with bagel_rt.load(golden_artefact, backend="onnxruntime") as bagel:
        cached = calls(bagel, lambda: bagel.interleave(case.items, **case.options))
        again = bagel.interleave(case.items, **{**case.options, "step_cache": None})
    cond, text = 5 + len(range(7, 19, 3)), int((case.arrays["flow.scales"][:, 0] > 1).sum())
    assert cached["gen_step"] == 1 + cond + 5 + len(range(7, text, 3))
    off = read("t2i_taylor_off")  # nothing of the cached call is left behind
    assert distance(again.latent, off.arrays["final_latent"]) <= LATENT

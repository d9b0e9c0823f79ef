"""Several pictures of one context, and guidance away from a text."""

from __future__ import annotations

import pytest
from calls import FAST, same

import bagel_rt
from bagel_engines.onnxruntime import cpu_engine
from bagel_rt.inputs.segments import Histories, Latents, Patches, Text
from bagel_rt.options.defaults import EDIT
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.sampling.torch_noise import TorchNoise


def test_several_pictures_are_those_of_their_seeds(small_bagel):
    alone = [small_bagel.generate("a", seed=s, **FAST) for s in (5, 6, 7)]
    for several in (
        small_bagel.generate("a", seed=5, images=3, **FAST),
        small_bagel.generate("a", seed=[5, 6, 7], **FAST),
    ):
        assert [r.seed for r in several] == [5, 6, 7]
        assert all(same(a, b) for a, b in zip(several, alone, strict=True))
    assert [len(small_bagel.generate("a", images=n, **FAST)) for n in (1, 2)] == [1, 2]


def test_planned_pictures_are_those_of_their_seeds_too(small_bagel):
    how = {"think": True, "max_think_tokens": 5, "text_temperature": 3.0, **FAST}
    for sampled in (False, True):
        several = small_bagel.generate("a", seed=[5, 6], do_sample=sampled, **how)
        for result in several:
            alone = small_bagel.generate("a", seed=result.seed, do_sample=sampled, **how)
            assert (result.text, same(result, alone)) == (alone.text, True)


def test_several_edits_share_the_first_ones_encoding_and_each_can_be_drawn_again(small_bagel, photo):
    several = small_bagel.edit(photo, "x", seed=[3, 9], num_timesteps=3)
    assert same(several[0], small_bagel.edit(photo, "x", seed=3, num_timesteps=3))
    assert same(several[1], small_bagel.edit(photo, "x", seed=9, vae_seed=3, num_timesteps=3))
    assert several[1].options["vae_seed"] == 3
    mean = small_bagel.edit(photo, "x", seed=[3, 9], num_timesteps=3, vae_sample=False)
    assert same(mean[1], small_bagel.edit(photo, "x", seed=9, num_timesteps=3, vae_sample=False))


def test_the_contexts_of_several_pictures_are_computed_once(small_artefact, photo, monkeypatch):
    monkeypatch.setattr(cpu_engine, "possible", lambda: False)  # und rows have a graph of their own
    with bagel_rt.load(small_artefact, backend="onnxruntime") as bagel:
        bagel.edit(photo, "x", seed=1, num_timesteps=2)
        one = dict(bagel.graphs.calls)
        bagel.graphs.calls.clear()
        bagel.edit(photo, "x", seed=1, images=4, num_timesteps=2)
        four = bagel.graphs.calls
    assert {k: four[k] for k in ("vae_encoder", "vit", "und_step")} == {
        k: one[k] for k in ("vae_encoder", "vit", "und_step")
    }
    assert four["vae_decoder"] == 4 * one["vae_decoder"]


def test_a_stream_of_several_pictures_hands_each_out_when_it_is_ready(small_bagel):
    events = list(small_bagel.stream(["a"], seed=5, images=2, **FAST))
    ready = [e for e in events if isinstance(e, bagel_rt.ImageReady)]
    assert [(e.done, e.total, e.result.seed) for e in ready] == [(1, 2, 5), (2, 2, 6)]
    assert events[-1].result == [e.result for e in ready]


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"images": 0}, "images is 0; an integer of 1 or more"),
        ({"images": "two"}, "integer"),
        ({"seed": []}, "empty list"),
        ({"seed": [1, 2.5]}, "seed is 2.5"),
        ({"seed": [1, 2], "images": 3}, "images is 3, and 2 seeds were given"),
        ({"negative_prompt": 3}, "negative_prompt must be a str"),
    ],
)
def test_what_cannot_be_several_pictures_is_refused(small_bagel, bad, message):
    with pytest.raises(bagel_rt.InputError, match=message):
        small_bagel.generate("a", **bad)


def test_given_noise_makes_one_picture_only(small_bagel):
    noise = TorchNoise(1).normal(16, 64)
    with pytest.raises(bagel_rt.InputError, match="every picture would be the same"):
        small_bagel.generate("a", noise=noise, images=2, **FAST)


def test_a_negative_prompt_takes_the_place_of_nothing_in_the_text_context():
    prompt, ugly = Text((1, 5, 2)), Text((1, 6, 2))
    assert Histories().with_text(prompt).with_negative(ugly) == Histories((prompt,), (ugly,), (prompt,))


def test_a_negative_prompt_guides_as_that_texts_velocity_does(small_bagel, photo):
    """Against itself a text has nothing to be guided by: the picture is the unguided one."""
    for draw in (small_bagel.generate, lambda *a, **k: small_bagel.edit(photo, *a, cfg_img_scale=1.0, **k)):
        guided = draw("a", seed=1, negative_prompt="a", **FAST)
        assert same(guided, draw("a", seed=1, cfg_text_scale=1.0, **FAST))
        assert not same(guided, draw("a", seed=1, **FAST))
        assert not same(draw("a", seed=1, negative_prompt="b", **FAST), draw("a", seed=1, **FAST))
    assert draw("a", seed=1, negative_prompt="", **FAST).options["negative_prompt"] == ""


def test_an_edits_negative_prompt_stands_behind_the_image(small_bagel, photo):
    turns = small_bagel._turns
    reading = turns.reader.read([photo, "a"], None, EDIT.encoding, TorchNoise(0))
    plan = turns.plan(None, reading.histories, ImageOptions(negative_prompt="b"), None)
    with pytest.raises(StopIteration) as end:
        next(plan)
    histories, _ = end.value.value
    assert [type(s) for s in histories.cfg_text] == [Latents, Patches, Text]

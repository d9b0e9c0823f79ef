"""The official scripts' settings: option values, contexts and transforms."""

from __future__ import annotations

import numpy as np
import pytest
from calls import FAST, same

import bagel_rt
from bagel_rt.inputs.segments import Gap, Histories, Patches, Text
from bagel_rt.options import presets
from bagel_rt.options.encoding import Encoding
from bagel_rt.sampling.torch_noise import TorchNoise

SYSTEM, PROMPT, THOUGHT = (Text((1, n, 2)) for n in range(10, 13))


def image(name: str, task: str) -> tuple:
    o = presets.defaults(task, name)
    return o.cfg_text_scale, o.cfg_img_scale, o.cfg_interval, o.cfg_renorm_type, o.timestep_shift, o.num_timesteps


@pytest.mark.parametrize(
    "name, task, wanted",
    [
        ("notebook", "generate", (4, 1, (0.4, 1), "global", 3, 50)),
        ("notebook", "edit", (4, 2, (0, 1), "text_channel", 3, 50)),
        ("app", "generate", (4, 1.5, (0.4, 1), "global", 3, 50)),
        ("app", "edit", (4, 2, (0, 1), "text_channel", 3, 50)),
        ("geneval", "generate", (4, 1, (0, 1), "global", 3, 50)),
        ("wise", "generate", (4, 1, (0.4, 1), "global", 3, 50)),
        ("gedit", "edit", (4, 1.5, (0.4, 1), "text_channel", 3, 50)),
        ("kris", "edit", (4, 1.5, (0, 1), "text_channel", 3, 50)),
        ("rise", "edit", (4, 2, (0, 1), "text_channel", 3, 50)),
        ("imgedit", "edit", (4, 1.5, (0, 1), "text_channel", 3, 50)),
    ],
)
def test_a_preset_guides_as_its_script_does(name, task, wanted):
    assert image(name, task) == wanted


def test_presets_think_and_write_as_their_scripts_do():
    for name, task in [("wise", "generate"), ("kris", "edit"), ("rise", "edit")]:
        o = presets.defaults(task, name)
        assert (o.think, o.do_sample, o.text_temperature, o.max_think_tokens) == (True, True, 0.3, 2048)
    assert presets.defaults("edit", "app").max_think_tokens == 1024
    assert presets.defaults("ask", "app").max_tokens == 512
    for name, task in [("geneval", "generate"), ("gedit", "edit"), ("imgedit", "edit")]:
        assert not presets.defaults(task, name).think


def test_the_evaluations_show_the_vit_the_original_with_a_short_side_of_378():
    for name in ("gedit", "kris", "rise", "imgedit"):
        assert presets.defaults("edit", name).encoding == Encoding(vit_raw=True, vit_min_size=378)
    assert presets.defaults("ask", "vlm").encoding == Encoding(
        vae=False, vae_sample=False, vit_raw=True, vit_min_size=378, vit_max_pixels=2_007_040
    )


def test_every_preset_is_complete_and_without_one_the_notebooks_defaults_hold():
    names = {"model", "notebook", "app", "geneval", "wise", "gedit", "kris", "rise", "imgedit", "vlm"}
    assert set(presets.PRESETS) == names
    for task in (presets.GENERATE, presets.EDIT, presets.ASK):
        assert presets.defaults(task, None) == presets.defaults(task, "notebook") == presets.KINDS[task]


def grids(bagel, photo, how: Encoding) -> list:
    reader, noise = bagel._turns.reader, TorchNoise(0)
    return [s.grid for s in reader.add_image(reader.start(None), photo, how, noise).histories.cond]


def test_the_raw_image_is_resized_once_and_by_the_given_rule(small_bagel, photo):
    # 100 x 70: the VAE's rule gives 96 x 64, the ViT's 84 x 56 of that, 98 x 70 of the original, 112 x 70 at least 78
    assert grids(small_bagel, photo, Encoding()) == [(4, 6), (5, 7)]
    assert grids(small_bagel, photo, Encoding(vit_raw=True)) == [(4, 6), (5, 7)]
    small = photo.resize((50, 35))
    assert grids(small_bagel, small, Encoding()) == [(4, 6), (5, 7)]
    assert grids(small_bagel, small, Encoding(vit_raw=True)) == [(4, 6), (4, 6)]
    assert grids(small_bagel, small, Encoding(vit_raw=True, vit_min_size=28)) == [(4, 6), (2, 4)]
    assert grids(small_bagel, photo, Encoding(vae=False, vit_raw=True, vit_max_pixels=5000)) == [(4, 5)]


def test_the_vit_sees_the_originals_pixels(small_bagel, photo):
    from bagel_rt.inputs.images import patchify, resize, to_pixels

    reader, noise = small_bagel._turns.reader, TorchNoise(0)
    reading = reader.add_image(reader.start(None), photo, Encoding(vae=False, vit_raw=True), noise)
    (patches,) = reading.histories.cond
    assert isinstance(patches, Patches)
    rule = small_bagel.manifest.vit_transform
    assert np.array_equal(patches.rows, patchify(to_pixels(resize(rule, photo)), 14))


def test_a_thought_may_enter_the_image_context_and_the_system_prompt_may_leave_a_gap():
    h = Histories().with_system(SYSTEM).with_text(PROMPT).with_thought(THOUGHT)
    assert h.with_cfg_img_text(THOUGHT).cfg_img == (SYSTEM, PROMPT, THOUGHT)
    assert h.without_system_in_cfg_text().cfg_text == (Gap(3),)
    assert Histories().with_text(PROMPT).without_system_in_cfg_text().cfg_text == ()


def test_wises_guidance_stands_behind_an_empty_cache_at_the_system_prompts_end(small_bagel):
    with small_bagel._turns.tree.lease() as contexts:
        context = contexts.open((Gap(30),))
        assert (context.length, context.position) == (0, 30)
    how = {"seed": 1, "preset": "wise", "max_think_tokens": 3, **FAST}
    assert not same(small_bagel.generate("a", **how), small_bagel.generate("a", cfg_text_system=True, **how))


def test_a_preset_is_a_set_of_defaults_and_is_recorded(small_bagel, photo):
    drawn = small_bagel.edit(photo, "x", preset="gedit", num_timesteps=3, cfg_img_scale=1.2)
    assert (drawn.seed, drawn.options["cfg_interval"], drawn.options["vit_raw"]) == (42, [0.4, 1.0], True)
    assert drawn.options["cfg_img_scale"] == 1.2
    chosen = {k: v for k, v in drawn.options.items() if k != "noise"}
    assert same(small_bagel.edit(photo, "x", **chosen), drawn)
    asked = small_bagel.ask("x", photo, preset="vlm", max_tokens=5)
    wanted = small_bagel.ask("x", photo, vit_raw=True, vit_min_size=378, vit_max_pixels=2_007_040, max_tokens=5)
    assert asked.token_ids == wanted.token_ids


def test_a_preset_that_does_not_fit_is_refused_with_those_that_do(small_bagel, photo):
    with pytest.raises(bagel_rt.InputError, match="preset is 'nice'; allowed: model, notebook, app, geneval"):
        small_bagel.generate("a", preset="nice")
    with pytest.raises(
        bagel_rt.InputError, match="preset vlm is for ask; those for edit are model, notebook, app, gedit"
    ):
        small_bagel.edit(photo, "a", preset="vlm")

"""Values of options: numpy's are Python's, and what cannot be computed with is refused by name."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
from calls import FAST, same

import bagel_rt
from bagel_rt.options import checks, defaults
from bagel_rt.options.seeds import seeds_of
from bagel_rt.sampling.token_choice import likeliest
from bagel_rt.sampling.torch_noise import TorchNoise

OTHERS = {  # a legal value of each kind of option that is not a default
    "int": 2,
    "float": 0.5,
    "bool": True,
    "str": "a",
    "str | Mapping[str, float]": {"a": 0.5},
    "tuple[float, float]": (0.25, 0.75),
    "tuple[str, ...]": ("a", "b"),
    "Literal['global', 'channel', 'text_channel']": "channel",
    "Literal['cfg', 'cfg_zero_star', 'apg']": "apg",
    "Literal['euler', 'heun', 'dpm++2m', 'unipc']": "heun",
    "Literal['taylorseer', 'easycache', 'polynomial', 'exponential']": "taylorseer",
}
ALONE = {"step_mask": ("101", {"num_timesteps": 4, "step_cache": "exponential"})}  # legal with others only


def in_numpy(value) -> list:
    """The value as numpy's scalars and as arrays of no dimensions."""
    if isinstance(value, tuple):
        kind = np.float32 if isinstance(value[0], float) else np.str_
        return [tuple(kind(v) for v in value), np.array(value), [np.array(v) for v in value]]
    if isinstance(value, dict):
        return [{key: np.float32(number) for key, number in value.items()}]
    small = {int: [np.int32, np.uint8], float: [np.float32, np.float16, np.longdouble], bool: [], str: []}[type(value)]
    return [np.asarray(value)[()], np.array(value), *(kind(value) for kind in small)]


@pytest.mark.parametrize("begin", [defaults.GENERATE, defaults.ANSWER])
def test_numpys_values_are_taken_as_pythons_in_every_option(begin):
    for one in fields(begin):
        if one.name in ("noise", "mask"):
            continue
        value, beside = ALONE.get(one.name) or (OTHERS[str(one.type).removesuffix(" | None")], {})
        wanted = replace(begin, **{one.name: value, **beside}).describe()
        for given in in_numpy(value):
            found = replace(begin, **{one.name: given, **beside}).describe()
            assert json.dumps(found) == json.dumps(wanted), (one.name, given)


@pytest.mark.parametrize(
    "given", [{"num_timesteps": np.int64(3)}, {"cfg_text_scale": np.float32(4)}, {"think": np.False_}]
)
def test_a_picture_drawn_with_numpys_values_is_saved_with_its_record(small_bagel, tmp_path, given):
    picture = small_bagel.generate("a", **{**FAST, **given}, seed=np.array(3))
    picture.save(tmp_path / "a.png")
    assert bagel_rt.results.read_metadata(tmp_path / "a.png")["options"] == picture.options
    assert type(picture.seed) is int


def test_numpys_values_are_taken_by_load_sessions_and_seeds(small_artefact, small_bagel):
    given = {
        "threads": np.int64(1),
        "cache_tokens": np.array(4096),
        "max_memory": np.float32(64),
        "low_memory": np.False_,
    }
    with bagel_rt.load(small_artefact, "onnxruntime", **given) as bagel:
        assert bagel.free_tokens == 4096
    with small_bagel.session(np.array(7), np.bool_(False)) as session:
        assert (session.seed, session.think, type(session.fork(np.int64(3)).seed)) == (7, None, int)
    assert seeds_of(np.int64(4), np.array(2)) == seeds_of(np.array([4, 5]), None) == [4, 5]
    assert all(type(seed) is int for seed in seeds_of(np.array([4, 5]), None))


@pytest.mark.parametrize("name", ["cfg_text_scale", "cfg_img_scale", "timestep_shift"])
@pytest.mark.parametrize("value", [1e39, -1e39, float("inf"), float("nan"), 10**400, np.longdouble("1e400")])
def test_a_number_that_float32_does_not_hold_is_refused_by_name(name, value):
    with pytest.raises(bagel_rt.InputError, match=f"{name} is .* a finite number"):
        replace(defaults.GENERATE, **{name: value})


def test_a_shift_so_small_that_the_schedule_divides_by_zero_is_refused():
    with pytest.raises(bagel_rt.InputError, match=r"timestep_shift is 1e-08; a number of 1e-06 or more"):
        replace(defaults.GENERATE, timestep_shift=1e-8)
    replace(defaults.GENERATE, timestep_shift=1e-6)


def test_noise_that_float32_does_not_hold_is_refused(small_bagel):
    with pytest.raises(bagel_rt.InputError, match="noise holds numbers that are not finite"):
        small_bagel.generate("a", noise=np.full((16, 64), 1e300), **FAST)


@pytest.mark.parametrize("name, digits", [("seed", 5000), ("height", 5000), ("num_timesteps", 30)])
def test_an_integer_of_no_use_is_refused_in_one_short_line(name, digits):
    with pytest.raises(bagel_rt.InputError, match=f"{name} is") as refused:
        replace(defaults.GENERATE, **{name: 10**digits})
    assert len(str(refused.value)) < 200
    with pytest.raises(bagel_rt.InputError, match="images is"):
        seeds_of(1, 10**30)


def test_threads_above_the_cpus_are_bounded_with_a_word():
    most = os.cpu_count()
    with pytest.warns(bagel_rt.BagelWarning, match=f"threads is 1000, this machine has {most} CPUs: {most} are used"):
        assert checks.threads("threads", 1000) == most
    with warnings.catch_warnings(action="error"):
        assert checks.threads("threads", most) == most
        assert checks.threads("threads", None) is None


@pytest.mark.parametrize("temperature", [1e-320, 5e-324, 1e-39, 1e-30])
def test_tiny_temperatures_are_greedy(small_bagel, temperature):
    greedy = small_bagel.ask("hello", max_tokens=9)
    with warnings.catch_warnings(action="error"):
        sampled = small_bagel.ask("hello", max_tokens=9, do_sample=True, text_temperature=temperature, seed=3)
    assert sampled.token_ids == greedy.token_ids


def test_a_temperature_of_no_size_takes_the_first_of_equals():
    from bagel_rt.generation.text_decoder import next_token

    logits = np.array([1.0, 2.0, 2.0], np.float32)
    options = replace(defaults.ANSWER, do_sample=True, text_temperature=1e-320)
    assert {next_token(logits, options, TorchNoise(i)) for i in range(9)} == {likeliest(logits)} == {1}


def test_an_edit_of_several_images_is_interleave_of_them_and_the_prompt(small_bagel, photo):
    other = photo.rotate(90, expand=True)
    how = {"seed": 1, "num_timesteps": 3}
    edited = small_bagel.edit([photo, other], "x", **how)
    assert edited.image.size == (64, 96)  # the last image's
    assert same(edited, small_bagel.interleave([photo, other, "x"], preset="notebook", **how))
    assert not same(edited, small_bagel.edit(other, "x", **how))
    assert same(small_bagel.edit((photo,), "x", **how), small_bagel.edit(photo, "x", **how))
    with pytest.raises(bagel_rt.InputError, match="edit was given no image"):
        small_bagel.edit([], "x")

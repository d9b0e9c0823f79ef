"""Pictures that begin with another one, keep parts of it, or are drawn in two passes; and solvers over a real model."""

from __future__ import annotations

import io

import numpy as np
import pytest
from calls import FAST, run, same
from PIL import Image

import bagel_rt
from bagel_rt.inputs.masks import open_mask

RANDOM = np.random.default_rng(0)
PHOTO = RANDOM.integers(0, 256, (64, 64, 3), np.uint8)
LEFT = np.zeros((64, 64), bool)
LEFT[:, :20] = True  # reaches into the second column of cells
SHORT = {"num_timesteps": 4, "seed": 1}


def drawn(bagel, **options):
    return bagel.edit(PHOTO, "a", **{**SHORT, **options})


def clean_latents(bagel) -> np.ndarray:
    return bagel._turns.reader.latents(np.asarray(PHOTO.transpose(2, 0, 1) / 127.5 - 1, np.float32), None).rows


def encoded(mask: np.ndarray, as_alpha: bool) -> bytes:
    """A mask as a PNG's bytes: white, or transparent, where it is True."""
    stream = io.BytesIO()
    if as_alpha:
        alpha = np.where(mask, 0, 255).astype(np.uint8)
        Image.fromarray(np.dstack([PHOTO, alpha])).save(stream, "PNG")
    else:
        Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_every_pixel_outside_a_mask_is_the_images_own(small_bagel):
    picture = np.asarray(drawn(small_bagel, mask=LEFT).image)
    assert np.array_equal(picture[~LEFT], PHOTO[~LEFT])
    assert not np.array_equal(picture[LEFT], PHOTO[LEFT])


def test_latents_of_untouched_cells_are_the_images_own(small_bagel):
    clean = clean_latents(small_bagel)
    latent = drawn(small_bagel, mask=LEFT).latent.reshape(4, 4, -1)
    assert np.abs(latent[:, 2:] - clean.reshape(4, 4, -1)[:, 2:]).max() < 1e-5
    assert np.abs(latent[:, :2] - clean.reshape(4, 4, -1)[:, :2]).max() > 0.1


def test_white_is_drawn_anew_and_of_pictures_with_transparency_what_is_transparent():
    for given in (LEFT, encoded(LEFT, False), encoded(LEFT, True), Image.open(io.BytesIO(encoded(LEFT, True)))):
        assert np.array_equal(open_mask(given), LEFT)


def test_a_mask_of_everything_draws_what_no_mask_draws(small_bagel):
    assert same(drawn(small_bagel, mask=np.ones((64, 64), bool)), drawn(small_bagel))


@pytest.mark.parametrize(
    "mask, words",
    [
        (np.ones((32, 64), bool), "mask is 64x32 pixels; the image's 64x64"),
        (np.zeros((64, 64), np.uint8), "no pixel is white"),
        ("no-such-file.png", "no such image file"),
    ],
)
def test_a_mask_that_fits_nothing_is_refused_by_name(small_bagel, mask, words):
    with pytest.raises(bagel_rt.InputError, match=words):
        drawn(small_bagel, mask=mask)


def test_a_mask_without_an_image_is_refused(small_bagel):
    with pytest.raises(bagel_rt.InputError, match="need an input image"):
        small_bagel.generate("a", **FAST, mask=np.ones((64, 64), bool))


def test_strength_takes_its_share_of_the_steps_and_little_of_it_stays_near_the_image(small_bagel):
    steps = {s: sum(isinstance(e, bagel_rt.Step) for e in events(small_bagel, strength=s)) for s in (0.1, 0.5, 1.0)}
    assert steps == {0.1: 1, 0.5: 5, 1.0: 10}
    clean = clean_latents(small_bagel)
    far = [np.abs(drawn(small_bagel, num_timesteps=11, strength=s).latent - clean).mean() for s in (0.1, 0.5, 1.0)]
    assert far == sorted(far)
    assert same(drawn(small_bagel, strength=1.0), drawn(small_bagel))


def events(bagel, **options):
    return bagel.stream([Image.fromarray(PHOTO), "a"], num_timesteps=11, seed=1, **options)


def test_two_passes_show_all_their_steps_and_end_at_the_size_asked_for(small_bagel):
    options = {**SHORT, "height": 64, "width": 64, "first_pass": 0.5, "second_pass_strength": 0.67}
    seen = [e for e in small_bagel.stream("a", **options) if isinstance(e, bagel_rt.Step)]
    assert [(s.done, s.total, s.grid) for s in seen] == [
        (1, 5, (2, 2)), (2, 5, (2, 2)), (3, 5, (2, 2)), (4, 5, (4, 4)), (5, 5, (4, 4))
    ]  # fmt: skip
    assert small_bagel.generate("a", **options).image.size == (64, 64)
    assert small_bagel.free_tokens == bagel_rt.api.CACHE_TOKENS


def test_positions_beyond_the_table_lie_between_its_entries(small_bagel):
    """A stretched grid's rows against the table itself, got from the graph entry by entry."""
    prefill = small_bagel._turns.painter._sampler._prefill
    model = small_bagel.manifest.model
    side = model.max_latent_size
    grid = (2 * side, 1)
    x = RANDOM.standard_normal((2 * side, model.latent_width)).astype(np.float32)
    t = np.float32(0.5)
    at = np.linspace(0, side - 1, 2 * side)
    got = prefill.row_embedder(grid, small_bagel._turns.painter._sampler._sums)(x, t)
    for i, place in enumerate(at):
        low = min(int(place), side - 2)
        ids = np.array([low * side, (low + 1) * side])
        below, above = prefill.placed_rows(np.repeat(x[i : i + 1], 2, 0), t, ids)
        assert np.allclose(np.asarray(got)[i], below + (place - low) * (above - below), atol=1e-4)


def test_sides_beyond_the_table_need_an_option_that_says_so(small_bagel):
    most = small_bagel.manifest.model.latent_stride * small_bagel.manifest.model.max_latent_size
    size = {"height": most + 16, "width": 16, "num_timesteps": 2}
    with pytest.raises(bagel_rt.InputError, match=f"up to {most}"):
        small_bagel.generate("a", **size)
    with pytest.warns(bagel_rt.BagelWarning, match="trained up to"):
        picture = small_bagel.generate("a", **size, stretch_positions=True)
    assert picture.image.size == (16, most + 16)


@pytest.mark.parametrize("solver, evaluations", [("euler", 6), ("heun", 11), ("dpm++2m", 6), ("unipc", 6)])
def test_each_solver_evaluates_the_model_as_often_as_it_says(small_bagel, solver, evaluations):
    small_bagel.graphs.calls.clear()
    options = {**FAST, "num_timesteps": 7, "cfg_text_scale": 1.0, "seed": 3}
    result = small_bagel.generate("a", **options, solver=solver)
    assert small_bagel.graphs.calls["flow_head"] == evaluations
    assert result.options["solver"] == solver
    assert np.isfinite(result.latent).all()


@pytest.mark.parametrize("cache", ["polynomial", "exponential", "easycache"])
def test_a_mask_of_steps_says_how_often_the_model_is_evaluated(small_bagel, cache):
    small_bagel.graphs.calls.clear()
    options = {**FAST, "num_timesteps": 11, "cfg_interval": (0.0, 1.0), "cfg_text_scale": 4.0, "seed": 3}
    small_bagel.generate("a", **options, step_cache=cache, step_mask="1110101001")
    assert small_bagel.graphs.calls["flow_head"] == 2 * 6  # two branches


def test_caches_that_evaluate_every_step_draw_the_plain_picture(small_bagel):
    options = {**FAST, "num_timesteps": 7, "seed": 3}
    plain = small_bagel.generate("a", **options)
    for cache in ("polynomial", "exponential", "easycache"):
        assert same(small_bagel.generate("a", **options, step_cache=cache, step_mask="1" * 6), plain)


def test_zero_steps_and_ended_guidance_spare_evaluations(small_bagel):
    options = {**FAST, "num_timesteps": 7, "cfg_interval": (0.0, 1.0), "seed": 3}
    for extra, calls in (({}, 12), ({"cfg_zero_steps": 2}, 8), ({"cfg_stop_similarity": -1.0}, 7)):
        small_bagel.graphs.calls.clear()
        small_bagel.generate("a", **options, **extra)
        assert small_bagel.graphs.calls["flow_head"] == calls, extra


@pytest.mark.parametrize(
    "options, words",
    [
        ({"solver": "heun", "step_cache": "exponential"}, "evaluates each step twice"),
        ({"num_timesteps": 3, "cfg_zero_steps": 2}, "fewer than the 2 steps"),
        ({"num_timesteps": 4, "step_cache": "exponential", "step_mask": "10"}, "3 are expected"),
        ({"num_timesteps": 4, "step_cache": "exponential", "step_mask": "011"}, "the first a 1"),
        ({"num_timesteps": 4, "step_mask": "101"}, "needs step_cache"),
        ({"first_pass": 0.5, "strength": 0.5}, "leave one of them out"),
    ],
)
def test_options_that_cannot_act_together_are_refused(options, words):
    with pytest.raises(bagel_rt.InputError, match=words):
        bagel_rt.options.image_options.ImageOptions(**options)


def test_edit_takes_a_mask_from_the_command_line(capsys, tmp_path, small_artefact):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    (tmp_path / "mask.png").write_bytes(encoded(LEFT, False))
    code, _, err = run(
        capsys, "edit", "--model", small_artefact, "--image", tmp_path / "photo.png", "--mask", tmp_path / "mask.png",
        "--prompt", "a", "--num-timesteps", "3", "--out", tmp_path / "out.png",
    )  # fmt: skip
    assert code == 0, err
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    assert np.array_equal(picture[~LEFT], PHOTO[~LEFT])


def test_a_picture_is_extended_and_its_own_pixels_stay(capsys, tmp_path, small_artefact, small_bagel):
    small = PHOTO[:, :48]
    canvas, mask = bagel_rt.extended(small, right=16)
    assert canvas.size == (64, 64)
    assert mask.sum() == 16 * 64
    picture = np.asarray(small_bagel.edit(canvas, "a", mask=mask, **SHORT).image)
    assert np.array_equal(picture[:, :48], small)
    Image.fromarray(small).save(tmp_path / "small.png")
    command = ["edit", "--model", small_artefact, "--image", tmp_path / "small.png", "--extend", 0, 0, 16, 0]
    code, _, err = run(capsys, *command, "--prompt", "a", "--num-timesteps", 3, "--out", tmp_path / "large.png")
    assert code == 0, err
    assert np.array_equal(np.asarray(Image.open(tmp_path / "large.png"))[:, :48], small)
    code, _, err = run(capsys, *command, "--mask", tmp_path / "small.png", "--prompt", "a")
    assert (code, "leave --mask out" in err) == (2, True)
    with pytest.raises(bagel_rt.InputError, match="left is -1"):
        bagel_rt.extended(small, left=-1)

"""The pure functions against torch, the specification's examples, and naive re-implementations."""

from __future__ import annotations

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bagel_rt.artefact.manifest import ResizeRule
from bagel_rt.generation.text_decoder import next_token
from bagel_rt.inputs.images import (
    patchify,
    position_ids,
    resize,
    resized_size,
    stretched_places,
    to_image,
    to_pixels,
    unpatchify,
)
from bagel_rt.inputs.pictures import open_image
from bagel_rt.model.rope import Rope
from bagel_rt.options.text_options import TextOptions
from bagel_rt.sampling.guidance import RENORM_TYPES, Guidance, Momentum, Projection, similarity
from bagel_rt.sampling.schedule import timesteps
from bagel_rt.sampling.step_cache import TaylorSeer
from bagel_rt.sampling.token_choice import drawn
from bagel_rt.sampling.torch_noise import TorchNoise


@pytest.mark.parametrize("seed", [0, 1, 42, -7, 2**32 + 5, 2**63 + 9])
def test_noise_is_torchs_stream_draw_after_draw(seed):
    torch.manual_seed(seed)
    noise = TorchNoise(seed)
    for shape in [(1, 16, 8, 12), (24, 64), (17,), (33, 3), (4096, 64)]:
        assert np.abs(noise.normal(*shape) - torch.randn(*shape).numpy()).max() <= 1e-6


def test_the_streams_bits_are_these_on_every_processor():
    """float32 is what is kept between the steps; in float64 the numbers would be other ones, as near to torch's."""
    normal = [TorchNoise(seed).normal(4096, 64) for seed in range(3)]
    times = [TorchNoise(seed).exponential(152064) for seed in range(3)]
    assert {array.dtype for array in (*normal, *times)} == {np.dtype(np.float32)}
    found = hashlib.sha256(b"".join(array.tobytes() for array in (*normal, *times)))
    assert found.hexdigest() == "f2e19880361161ca80c2469b3fd4ed9595317dd1c9828717c2b352d36df77022"


def test_a_copied_stream_goes_on_by_itself():
    noise = TorchNoise(3)
    noise.normal(16)
    twin = noise.copy()
    wanted = noise.normal(32)
    assert np.array_equal(twin.normal(32), wanted)
    assert np.array_equal(twin.normal(16), noise.normal(16))


def test_fewer_than_sixteen_normal_numbers_are_refused():
    with pytest.raises(ValueError, match="torch draws fewer than 16 numbers by another method; 15 were asked for"):
        TorchNoise(0).normal(3, 5)
    assert TorchNoise(0).normal(4, 4).shape == (4, 4)


@pytest.mark.parametrize("count, seeds", [(1, 50), (15, 50), (16, 50), (17, 50), (376, 50), (152064, 3)])
def test_exponential_numbers_are_torchs_to_the_bit_and_leave_the_stream_where_torch_does(count, seeds):
    for seed in range(seeds):
        torch.manual_seed(seed)
        noise, passed = TorchNoise(seed), TorchNoise(seed)
        assert np.array_equal(noise.exponential(count), torch.empty(count).exponential_(1).numpy())
        passed.skip_exponential(count)
        after = torch.randn(32).numpy()
        assert np.abs(noise.normal(32) - after).max() <= 1e-6
        assert np.abs(passed.normal(32) - after).max() <= 1e-6


@pytest.mark.parametrize("size, seeds", [(7, 100), (376, 100), (152064, 5)])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_a_sampled_token_is_torch_multinomials_draw_after_draw(size, seeds, temperature):
    random = np.random.default_rng(size)
    for seed in range(seeds):
        torch.manual_seed(seed)
        noise = TorchNoise(seed)
        for _ in range(3):
            logits = (4 * random.standard_normal(size)).astype(np.float32)
            chances = torch.softmax(torch.from_numpy(logits)[None] / temperature, dim=-1)
            assert drawn(logits, noise, temperature, None, None) == int(torch.multinomial(chances, 1))


def test_any_integer_is_a_seed_and_other_seeds_give_other_noise():
    draws = [TorchNoise(seed).normal(64) for seed in (0, 1, -1, 10**30)]
    assert all(not np.array_equal(a, b) for i, a in enumerate(draws) for b in draws[:i])


@pytest.mark.parametrize("shift", [1.0, 3.0, 4.0, 2.5, 0.7])
def test_the_schedule_is_torchs_linspace_shifted_to_the_bit(shift):
    for points in range(2, 301):
        s = torch.linspace(1, 0, points)
        assert np.array_equal(timesteps(points, shift), (shift * s / (1 + (shift - 1) * s)).numpy())


def guided_in_torch(c, u, m, s, g, kind, low):
    """The official combination of the branches, written down once more."""
    norm = lambda x: torch.norm(x) if kind == "global" else torch.norm(x, dim=-1, keepdim=True)  # noqa: E731
    if s <= 1:
        return c
    a = u + s * (c - u)
    if kind == "text_channel":
        a = a * (norm(c) / (norm(a) + 1e-8)).clamp(low, 1.0)
        return m + g * (a - m) if g > 1 else a
    b = m + g * (a - m) if g > 1 else a
    return b * (norm(c) / (norm(b) + 1e-8)).clamp(low, 1.0)


@pytest.mark.parametrize("kind", RENORM_TYPES)
@pytest.mark.parametrize("s, g", [(4.0, 1.0), (4.0, 2.0), (1.0, 2.0), (0.5, 0.5), (3.0, 1.5)])
@pytest.mark.parametrize("low", [0.0, 0.3, 1.0])
def test_guidance_combines_as_the_specification_says(kind, s, g, low):
    c, u, m = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 24, 64)).astype(np.float32))
    guidance, t = Guidance(s, g, (0.4, 1.0), low, kind), np.float32(0.9)
    given = {"cond": c.numpy(), "cfg_text": u.numpy(), "cfg_img": m.numpy()}
    got = guidance.combine({name: given[name] for name in guidance.branches(t)}, t)
    assert np.allclose(got, guided_in_torch(c, u, m, s, g, kind, low).numpy(), rtol=2e-5, atol=2e-6)


def test_guidance_acts_above_the_lower_bound_and_up_to_the_upper_one_in_float32():
    guidance = Guidance(4.0, 2.0, (0.4, 0.8), 0.0, "global")
    active = lambda t: len(guidance.branches(np.float32(t))) == 3  # noqa: E731
    assert not active(0.4)
    assert active(np.nextafter(np.float32(0.4), np.float32(1)))
    assert active(0.8)
    assert not active(np.nextafter(np.float32(0.8), np.float32(1)))


def test_branches_are_those_whose_velocity_matters():
    def branches(text: float, image: float, t: float = 0.5) -> int:
        return len(Guidance(text, image, (0.4, 0.8), 0.0, "global").branches(np.float32(t)))

    assert (branches(1.0, 2.0), branches(1.5, 1.0), branches(1.5, 1.5)) == (1, 2, 3)
    assert branches(1.5, 1.5, 0.9) == branches(1.5, 1.5, 0.3) == 1  # outside the interval


def test_renormalisation_shortens_and_never_lengthens():
    c = np.ones((2, 64), np.float32)
    shorter = {"cond": c, "cfg_text": 1.5 * c}  # guided by 1.5: 0.75 of the conditional one
    for kind in ("global", "channel", "text_channel"):
        guided = Guidance(1.5, 1.0, (0.0, 1.0), 0.0, kind).combine(shorter, np.float32(0.5))
        assert np.allclose(guided, 0.75, rtol=1e-6), kind


@pytest.mark.parametrize("kind", ["global", "channel"])
def test_a_norm_beyond_float32_gives_nan_which_is_told_and_not_a_velocity_of_nothing(kind):
    c = np.full((2, 64), 1e30, np.float32)
    with np.errstate(all="ignore"):
        guided = Guidance(4.0, 1.0, (0.0, 1.0), 0.0, kind).combine({"cond": c, "cfg_text": -c}, np.float32(0.5))
    assert np.isnan(guided).all()


def naive_taylorseer(rows: list[np.ndarray], highest: int = 6) -> list[np.ndarray]:
    """The official schedule and forecast with every difference recomputed from the evaluated steps. highest: the order
    of the last difference that a forecast adds."""
    out, full = [], []
    for step in range(len(rows)):
        if step < 5 or (step - 4) % 3 == 0:
            full.append(step)
            out.append(rows[step])
            continue
        known = [s for s in full if s >= 3]  # differences start with steps 3 and 4
        table = {(known[0], 0): rows[known[0]]}
        for before, now in itertools.pairwise(known):
            table[now, 0] = rows[now]
            for order in range(6):
                if (before, order) in table:
                    table[now, order + 1] = (table[now, order] - table[before, order]) / (now - before)
        last = known[-1]
        x = step - last
        out.append(sum(table[last, k] * x**k / math.factorial(k) for k in range(highest + 1) if (last, k) in table))
    return out


def test_taylorseer_evaluates_and_forecasts_on_the_official_schedule():
    rows = list(np.cumsum(np.random.default_rng(0).standard_normal((49, 5, 8)), axis=0).astype(np.float32))
    seer, evaluated, got = TaylorSeer(), [], []
    for i, row in enumerate(rows):
        got.append(seer.step(lambda i=i, row=row: evaluated.append(i) or row))
    assert evaluated == [0, 1, 2, 3, 4, *range(7, 49, 3)]
    for a, b in zip(got, naive_taylorseer([r.astype(np.float64) for r in rows]), strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_taylorseers_forecast_adds_differences_up_to_the_sixth():
    """In float64, where rounding hides no order: the recorded runs are too short to reach the last ones."""
    rows = list(np.cumsum(np.random.default_rng(1).standard_normal((49, 5, 8)), axis=0))
    seer = TaylorSeer()
    got = [seer.step(lambda row=row: row) for row in rows]
    assert all(np.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(got, naive_taylorseer(rows), strict=True))
    apart = [np.abs(a - b).max() for a, b in zip(got, naive_taylorseer(rows, 5), strict=True)]
    assert max(apart) > 1e-3  # so one order less would be seen


def test_a_forked_forecast_goes_on_by_itself():
    seer = TaylorSeer()
    for i in range(6):
        seer.step(lambda i=i: np.full((1, 1), float(i), np.float32))
    twin = seer.fork()
    a, b = seer.step(lambda: np.zeros((1, 1))), twin.step(lambda: np.ones((1, 1)))
    assert np.array_equal(a, b)
    assert seer.step(lambda: np.zeros((1, 1), np.float32)) == 0
    assert twin.step(lambda: np.ones((1, 1), np.float32)) == 1


def test_rope_equals_the_references():
    from sizes import dims

    from bagel_export.reference.language import rope_tables

    model = dims(head_dim=16, rope_theta=1e6)
    positions = np.array([0, 1, 5, 1000, 32767])
    # what a frequency's last bit moves: an angle of so many radians by as many times 2**-23
    angles = positions[:, None] * 1e6 ** -(np.arange(16) % 8 / 8)
    for got, wanted in zip(Rope(model).at(positions), rope_tables(torch.from_numpy(positions), 16, 1e6), strict=True):
        assert np.all(np.abs(got - wanted.numpy()) <= 1e-6 + angles * 2.0**-23)


def test_rope_is_cosine_and_sine_of_position_times_frequency():
    from sizes import dims

    positions = np.arange(200)
    cos, sin = Rope(dims(head_dim=16, rope_theta=1e4)).at(positions)
    angles = positions[:, None] * 1e4 ** -(np.arange(16) % 8 / 8)  # both halves of a head have the same
    assert np.allclose(cos, np.cos(angles), atol=2e-5)
    assert np.allclose(sin, np.sin(angles), atol=2e-5)


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([2, 14]))
@settings(deadline=None)
def test_unpatchify_undoes_patchify_and_channels_run_fastest(high, wide, patch):
    planes = np.random.default_rng(0).standard_normal((3, high * patch, wide * patch)).astype(np.float32)
    rows = patchify(planes, patch)
    assert rows.shape == (high * wide, patch * patch * 3)
    assert np.array_equal(rows[0, :3], planes[:, 0, 0])
    assert np.array_equal(rows[0, 3:6], planes[:, 0, 1])
    assert np.array_equal(unpatchify(rows, (high, wide), patch), planes)


def test_position_ids_are_row_times_side_plus_column():
    assert position_ids((2, 3), 64).tolist() == [0, 1, 2, 64, 65, 66]


VAE, VIT = ResizeRule(1024, 512, 16), ResizeRule(980, 224, 14)


@pytest.mark.parametrize(
    "given_size, vae_size, vit_size",
    [
        ((640, 480), (688, 512), (686, 518)),
        ((100, 150), (512, 768), (518, 770)),
        ((1920, 1080), (1024, 576), (980, 546)),
        ((1024, 1024), (1024, 1024), (980, 980)),
        ((3000, 200), (1024, 64), (980, 56)),
    ],
)
def test_sizes_follow_the_official_double_transform(given_size, vae_size, vit_size):
    assert resized_size(VAE, *given_size) == vae_size
    assert resized_size(VIT, *vae_size) == vit_size
    assert resized_size(VAE, *vae_size) == vae_size


@pytest.mark.parametrize("given_size, vit_size", [((640, 480), (644, 476)), ((100, 150), (224, 336))])
def test_the_vit_transform_alone_gives_the_specifications_sizes(given_size, vit_size):
    assert resized_size(VIT, *given_size) == vit_size


def test_an_area_beyond_max_pixels_shrinks_by_the_ratio_itself():
    rule = ResizeRule(4000, 16, 10, max_pixels=10_000)
    assert resized_size(rule, 200, 100) == (100, 50)  # 20,000 pixels: by 2, not by sqrt(2)


def test_resizing_leaves_an_image_of_the_right_size_alone():
    image = Image.effect_noise((688, 512), 50).convert("RGB")
    assert resize(VAE, image) is image


def test_pixels_are_cut_not_rounded_and_clamped():
    values = np.array([-2.0, -1.0, 0.999 / 127.5 - 1, 1.999 / 127.5 - 1, 1.0, 3.0], np.float32)
    planes = np.repeat(values.reshape(1, 1, -1), 3, axis=0)
    assert np.asarray(to_image(planes))[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


def test_pixels_survive_the_way_in_and_out():
    array = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    back = np.asarray(to_image(to_pixels(open_image(array))))
    assert np.abs(back.astype(int) - array).max() <= 1


LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05]))


def share(**values) -> np.ndarray:
    noise = TorchNoise(0)
    options = TextOptions(do_sample=True, **{"text_temperature": 1.0, **values})
    picked = [next_token(LOGITS, options, noise) for _ in range(4000)]
    return np.bincount(picked, minlength=4) / 4000


def test_greedy_takes_the_first_of_the_largest():
    assert next_token(np.array([1.0, 3.0, 3.0]), TextOptions(), TorchNoise(0)) == 1


def test_sampling_follows_temperature_top_k_and_top_p():
    assert np.allclose(share(), [0.5, 0.3, 0.15, 0.05], atol=0.03)
    assert np.allclose(share(text_temperature=0.5), np.array([25, 9, 2.25, 0.25]) / 36.5, atol=0.03)
    assert np.allclose(share(top_k=2), [0.625, 0.375, 0, 0], atol=0.03)
    assert np.allclose(share(top_p=0.79), [0.625, 0.375, 0, 0], atol=0.03)
    assert np.allclose(share(top_p=0.81), np.array([0.5, 0.3, 0.15, 0]) / 0.95, atol=0.03)
    assert np.allclose(share(top_k=1), [1, 0, 0, 0])
    assert np.allclose(share(top_k=2, top_p=0.6), [1, 0, 0, 0])  # of the two, the first has 0.625


def test_of_equally_likely_tokens_the_first_ones_are_kept():
    logits = np.tile(np.array([0.0, 1.0, 1.0, 0.5], np.float32), 250)
    assert {drawn(logits, TorchNoise(seed), 1.0, 3, None) for seed in range(60)} == {1, 2, 5}


def test_top_p_keeps_what_it_says_of_a_large_vocabulary():
    """Chances summed in float32 are off by so much that 137 tokens fewer of 76,032 are kept."""
    assert drawn(np.zeros(152064, np.float32), TorchNoise(627), 1.0, None, 0.5) == 76008


def test_a_temperature_too_small_for_float32_is_greedy_and_takes_as_many_random_numbers():
    noise, usual = TorchNoise(0), TorchNoise(0)
    assert {drawn(LOGITS[::-1], noise, 1e-320, None, None) for _ in range(20)} == {len(LOGITS) - 1}
    assert {drawn(1e5 * LOGITS, noise, 1e-36, None, 0.5) for _ in range(20)} == {0}
    usual.skip_exponential(40 * len(LOGITS))
    assert np.array_equal(noise.normal(16), usual.normal(16))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("top_k", [None, 2])
def test_a_token_whose_time_is_nothing_wins_without_a_warning(top_k):
    class AtOnce:
        def exponential(self, count):
            return np.zeros(count, np.float32)

    assert drawn(LOGITS, AtOnce(), 1.0, top_k, None) in range(len(LOGITS))  # type: ignore[arg-type]


def test_limits_on_the_choice_take_as_many_random_numbers_as_none():
    noise, usual = TorchNoise(0), TorchNoise(0)
    drawn(LOGITS, noise, 1.0, 2, 0.5)
    usual.skip_exponential(len(LOGITS))
    assert np.array_equal(noise.normal(16), usual.normal(16))


def ruled(rule: str, **projection) -> Guidance:
    return Guidance(4.0, 1.0, (0.0, 1.0), 1.0, "global", rule, Projection(**projection))  # renormalisation off: min 1


def test_cfg_zero_star_scales_the_unguided_velocity_to_lie_nearest():
    c, u = np.random.default_rng(0).standard_normal((2, 24, 64)).astype(np.float32)
    s = (c * u).sum() / ((u * u).sum() + 1e-8)
    got = ruled("cfg_zero_star").combine({"cond": c, "cfg_text": u}, np.float32(0.5))
    assert np.allclose(got, s * u + 4 * (c - s * u), rtol=1e-4, atol=1e-5)


def test_apg_guides_clean_estimates_without_the_part_along_them():
    c, u, x = np.random.default_rng(0).standard_normal((3, 24, 64)).astype(np.float32)
    t, past = np.float32(0.5), Momentum()
    got = ruled("apg", momentum=0.0).combine({"cond": c, "cfg_text": u}, t, x, past)
    clean, step = x - t * c, (x - t * c) - (x - t * u)
    across = step - (step * clean).sum() / (clean * clean).sum() * clean
    assert np.allclose(x - t * got, clean + 3 * across, atol=1e-4)
    whole = ruled("apg", momentum=0.0, eta=1.0).combine({"cond": c, "cfg_text": u}, t, x, Momentum())
    assert np.allclose(whole, u + 4 * (c - u), atol=1e-4)  # eta 1 is plain guidance


def test_apg_remembers_a_share_of_the_last_step_and_bounds_its_length():
    c, u, x = np.random.default_rng(0).standard_normal((3, 24, 64)).astype(np.float32)
    t, past = np.float32(0.5), Momentum()
    with_past = ruled("apg", eta=1.0, momentum=-0.5)
    first = with_past.combine({"cond": c, "cfg_text": u}, t, x, past)
    second = with_past.combine({"cond": c, "cfg_text": u}, t, x, past)
    assert np.allclose(second - c, (first - c) / 2, atol=1e-5)
    for longest in (2.0, 0.5):
        short = ruled("apg", eta=1.0, momentum=0.0, norm_threshold=longest)
        moved = short.combine({"cond": c, "cfg_text": u}, t, x, Momentum()) - c
        assert math.isclose(np.linalg.norm(moved * t / 3), longest, rel_tol=1e-4)


def test_similarity_is_the_cosine_and_of_nothing_it_is_none():
    a = np.random.default_rng(0).standard_normal((24, 64)).astype(np.float32)
    assert math.isclose(similarity(a, 3 * a), 1.0, rel_tol=1e-6)
    assert math.isclose(similarity(a, np.float32(1e-4) * a), 1.0, rel_tol=1e-6)
    assert math.isclose(similarity(a, -a), -1.0, rel_tol=1e-6)
    assert similarity(a, np.zeros_like(a)) == 0.0


def test_stretched_positions_reach_from_the_first_to_the_last_entry_and_weigh_one():
    corners = stretched_places((6, 4), 4)
    weights = sum(weight for _, weight in corners)
    assert np.allclose(weights, 1)
    rows = sum(weight * (ids // 4) for ids, weight in corners).reshape(6, 4)
    columns = sum(weight * (ids % 4) for ids, weight in corners).reshape(6, 4)
    assert np.allclose(rows[:, 0], np.linspace(0, 3, 6))
    assert np.allclose(columns[0], np.arange(4))  # an axis that fits keeps its positions

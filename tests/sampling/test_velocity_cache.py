"""Step caches on velocities: which steps they leave out, and what they forecast there."""

from __future__ import annotations

import numpy as np
import pytest

from bagel_rt.sampling.schedule import timesteps
from bagel_rt.sampling.velocity_cache import Movement, VelocityCache

TIMES = timesteps(50, 3.0)
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((6, 64)).astype(np.float32)


def drawn(cache: VelocityCache, field) -> tuple[list[np.ndarray], list[int]]:
    """Velocities of 49 steps at latents that stay, and the steps at which the field was asked."""
    found, asked = [], []
    for step, t in enumerate(TIMES[:-1]):
        cache.begin(step, X)
        v = cache.velocity("cond", t, X, lambda t=t, step=step: asked.append(step) or field(t, step))
        cache.end(X, v)
        found.append(v)
    return found, asked


@pytest.mark.parametrize("kind", ["polynomial", "exponential"])
def test_without_a_mask_the_schedule_is_taylorseers(kind):
    cache = VelocityCache(kind, 49, None, 0.05)
    _, asked = drawn(cache, lambda t, step: X * t)
    assert asked == cache.evaluated == [0, 1, 2, 3, 4, *range(7, 49, 3)]


@pytest.mark.parametrize("kind", ["polynomial", "exponential", "easycache"])
def test_a_mask_says_which_steps_are_evaluated(kind):
    mask = "1110" + "10" * 22 + "1"
    _, asked = drawn(VelocityCache(kind, 49, mask, 0.05), lambda t, step: X * t)
    assert asked == [i for i, digit in enumerate(mask) if digit == "1"]


def test_a_polynomial_continues_what_is_quadratic_in_time():
    a, b, c = RANDOM.standard_normal((3, 6, 64)).astype(np.float32)
    found, _ = drawn(VelocityCache("polynomial", 49, None, 0.05), lambda t, step: a + b * t + c * t * t)
    for t, v in zip(TIMES, found, strict=False):
        assert np.allclose(v, a + b * t + c * t * t, atol=2e-4)


def test_exponentials_continue_what_decays_and_swings():
    a, b, c = RANDOM.standard_normal((3, 6, 64))
    field = lambda t, s: (a * 0.93**s + b * np.cos(0.2 * s) + c * np.sin(0.2 * s)).astype(np.float32)  # noqa: E731
    found, _ = drawn(VelocityCache("exponential", 49, None, 0.05), field)
    plain, _ = drawn(VelocityCache("polynomial", 49, None, 0.05), field)
    late = range(20, 49)
    miss = lambda given: max(np.abs(given[s] - field(0, s)).max() for s in late)  # noqa: E731
    assert miss(found) < 0.02 < 0.1 < miss(plain)


def forecast(kind: str, mask: str, field) -> np.ndarray:
    """The velocity of the last step, which the mask leaves out."""
    cache, x = VelocityCache(kind, len(mask), mask, 0.05), X
    for step in range(len(mask)):
        cache.begin(step, x)
        v = cache.velocity("cond", TIMES[step], x, lambda step=step: field(step).astype(np.float32))
        cache.end(x, v)
        x = x - v
    return v


def test_easycache_takes_the_last_difference_of_velocity_and_latents():
    assert np.allclose(forecast("easycache", "10", lambda step: 3 * X), (X - 3 * X) + (3 * X - X))


@pytest.mark.parametrize("mask", ["11110", "1011110", "110111110", "1110101010100"])
def test_exponentials_are_fitted_to_the_last_calls_that_are_equally_far_apart(mask):
    even = {"11110": 0, "1011110": 2, "110111110": 3, "1110101010100": 2}[mask]
    strange = RANDOM.standard_normal((6, 64))
    found = forecast("exponential", mask, lambda step: X * 0.5**step if step >= even else strange)
    assert np.allclose(found, X * 0.5 ** (len(mask) - 1), atol=1e-5)


def test_three_calls_are_too_few_for_exponentials_and_are_continued_as_a_polynomial():
    found = [forecast(kind, "1110", lambda step: X * 0.5**step) for kind in ("exponential", "polynomial")]
    assert np.array_equal(*found)


def test_where_a_continuation_overflows_the_last_velocity_stays():
    with np.errstate(over="ignore"):
        found = forecast("exponential", "1111110", lambda step: X * 1e32 * 10.0**step)
    assert np.allclose(found, X * 1e37, rtol=1e-6)


@pytest.mark.parametrize("field", [lambda t, s: np.zeros_like(X), lambda t, s: X * np.float32(1e30)])
@pytest.mark.parametrize("kind", ["polynomial", "exponential", "easycache"])
def test_a_forecast_is_finite_for_nothing_and_for_huge_numbers(kind, field):
    with np.errstate(over="ignore"):
        found, _ = drawn(VelocityCache(kind, 49, None, 0.05), field)
    assert all(np.isfinite(v).all() for v in found)


def moving(threshold: float, steps: int = 49) -> list[int]:
    """The steps evaluated of a flow that slows down."""
    cache, x, asked = VelocityCache("easycache", steps, None, threshold), X.copy(), []
    for step in range(steps):
        cache.begin(step, x)
        speed = np.float32(0.9**step)
        v = cache.velocity("cond", np.float32(1), x, lambda step=step, speed=speed: asked.append(step) or speed * X + 1)
        cache.end(x, v)
        x = x - v * np.float32(1 / steps)
    return asked


def test_easycache_evaluates_more_for_a_smaller_threshold_and_always_warm_and_last_steps():
    counts = [len(moving(threshold)) for threshold in (1e-9, 0.01, 0.05, 0.5)]
    assert counts[0] == 49
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 12
    for threshold in (0.01, 0.5):
        assert {0, 1, 2, 3, 4, 48} <= set(moving(threshold))
    assert 5 not in moving(0.5)


def test_movement_sums_expected_changes_until_the_threshold():
    rule = Movement(0.25)
    one = np.ones((1, 4), np.float32)
    assert not rule.is_still(one)
    rule.note(one, one, evaluated=True)
    rule.note(2 * one, 1.1 * one, evaluated=True)  # a change of 0.1 for a movement of 1
    assert rule.is_still(3 * one)  # 0.1 / 1.1
    rule.note(3 * one, 1.1 * one, evaluated=False)
    assert rule.is_still(4 * one)  # 0.18
    rule.note(4 * one, 1.1 * one, evaluated=False)
    assert not rule.is_still(5 * one)  # 0.27


def test_a_change_as_large_as_the_threshold_is_evaluated():
    rule, one = Movement(0.5), np.ones((1, 4), np.float32)
    rule.note(one, one, evaluated=True)
    rule.note(2 * one, 2 * one, evaluated=True)  # the output changes as the input does
    assert not rule.is_still(3 * one)  # by half of its length


def test_a_context_seen_for_the_first_time_is_evaluated_where_others_are_forecast():
    cache, asked = VelocityCache("polynomial", 3, "110", 0.05), []
    for step in range(3):
        cache.begin(step, X)
        for context in ("cond", *(["cfg_text"] if step == 2 else [])):
            cache.velocity(context, TIMES[step], X, lambda at=(step, context): asked.append(at) or X)
    assert asked == [(0, "cond"), (1, "cond"), (2, "cfg_text")]


@pytest.mark.parametrize("kind, arrays", [("easycache", 1), ("polynomial", 3), ("exponential", 6)])
def test_a_branch_keeps_so_many_velocities(kind, arrays):
    """docs/drawing.md says what that is in megabytes."""
    cache = VelocityCache(kind, 49, "1" * 49, 0.05)
    drawn(cache, lambda t, step: X * t)
    seen: dict[int, np.ndarray] = {}

    def gather(value) -> None:
        if isinstance(value, np.ndarray):
            seen[id(value)] = value
        for part in value if isinstance(value, list | tuple) else getattr(value, "__dict__", {}).values():
            gather(part)

    gather(cache._known["cond"])
    assert len(seen) == arrays
    assert all(a.nbytes == X.nbytes for a in seen.values())

"""Solvers of the flow against its exact solution: for normally distributed pictures that is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bagel_rt.sampling.schedule import timesteps
from bagel_rt.sampling.solvers import SOLVERS

MEAN, SPREAD = 0.8, 0.6  # of the pictures, each number by itself
NOISE = np.linspace(-2, 2, 9)
EXACT = MEAN + SPREAD * NOISE  # where the flow takes the noise


def velocity(x, t):
    """Of pictures that are normally distributed: what is known of one, given x, is a weighted mean."""
    t = float(t)
    clean = MEAN + (1 - t) * SPREAD**2 / ((1 - t) ** 2 * SPREAD**2 + t**2) * (x - (1 - t) * MEAN)
    return (x - clean) / t


def solved(name: str, steps: int, shift: float = 3.0, field=velocity) -> np.ndarray:
    s = np.linspace(1, 0, steps + 1)  # in float64: orders are seen below float32's rounding
    times = shift * s / (1 + (shift - 1) * s)
    solver, x = SOLVERS[name](), NOISE
    for t, after in itertools.pairwise(times):
        x = solver.advance(x, t, after, field)
    return x


def error(name: str, steps: int) -> float:
    return float(np.abs(solved(name, steps) - EXACT).max())


@pytest.mark.parametrize("name, order", [("euler", 1.0), ("heun", 2.0), ("dpm++2m", 1.8), ("unipc", 2.0)])
def test_the_error_falls_with_the_order_of_the_solver(name, order):
    found = math.log2(error(name, 768) / error(name, 1536))
    assert abs(found - order) < 0.1


@pytest.mark.parametrize("name", ["heun", "dpm++2m", "unipc"])
def test_at_equal_evaluations_of_the_model_better_solvers_are_nearer(name):
    for evaluations in (31, 49, 97):  # heun needs some thirty before its two for a step are worth it
        steps = (evaluations + 1) // 2 if name == "heun" else evaluations
        assert error(name, steps) < 0.7 * error("euler", evaluations)


@pytest.mark.parametrize("name", list(SOLVERS))
def test_one_step_gives_the_clean_estimate_and_straight_paths_are_exact(name):
    assert np.allclose(solved(name, 1), NOISE - velocity(NOISE, 1.0))
    goal = np.full_like(NOISE, 0.3)
    for steps in (1, 2, 3, 7):
        assert np.allclose(solved(name, steps, field=lambda x, t: NOISE - goal), goal)


@pytest.mark.parametrize("name, calls", [("euler", 49), ("heun", 97), ("dpm++2m", 49), ("unipc", 49)])
def test_a_picture_of_fifty_points_costs_so_many_evaluations(name, calls):
    made = []
    solved(name, 49, field=lambda x, t: made.append(t) or velocity(x, t))
    assert len(made) == calls
    assert min(made) > 0  # at 0 there is nothing to ask


def test_multistep_formulas_are_the_papers():
    """DPM-Solver++ (2M) and UniPC's corrector, written down once more for the third step of four."""
    times = timesteps(6, 3.0).astype(np.float64)
    lam = np.log((1 - times[1:-1]) / times[1:-1])  # of the inner times
    solver, x, seen = SOLVERS["dpm++2m"](), NOISE, []
    for i in range(4):
        seen.append((x, x - times[i] * velocity(x, times[i])))
        x = solver.advance(x, times[i], times[i + 1], velocity)
    h, before = lam[3] - lam[2], lam[2] - lam[1]
    d = seen[3][1] + h / (2 * before) * (seen[3][1] - seen[2][1])
    assert np.allclose(x, times[4] / times[3] * seen[3][0] - (1 - times[4]) * math.expm1(-h) * d, rtol=1e-6)


def test_unipcs_corrected_points_are_nearer_than_its_predicted_ones():
    exact = lambda t: (1 - t) * MEAN + math.sqrt((1 - t) ** 2 * SPREAD**2 + t**2) * NOISE  # noqa: E731
    times = timesteps(20, 3.0).astype(np.float64)
    solver = SOLVERS["unipc"]()
    x, gains = NOISE, []
    for t, after in itertools.pairwise(times):
        predicted = x
        x = solver.advance(x, t, after, velocity)
        if t < 1:
            corrected = solver._seen[-1].x
            gains.append(np.abs(predicted - exact(t)).max() / np.abs(corrected - exact(t)).max())
    assert np.median(gains) > 1.5


def test_unipcs_prediction_is_the_papers():
    """Written down once more: D1 / r is how the clean estimate changed over the step before, by this step's width."""
    times = timesteps(7, 3.0).astype(np.float64)
    lam = np.log((1 - times[1:-1]) / times[1:-1])  # of the inner times
    solver, x = SOLVERS["unipc"](), NOISE
    for i in range(4):
        x = solver.advance(x, times[i], times[i + 1], velocity)
    (before, here), h, h_before = solver._seen, lam[3] - lam[2], lam[2] - lam[1]
    plain = times[4] / times[3] * here.x - (1 - times[4]) * math.expm1(-h) * here.clean
    change = (here.clean - before.clean) * h / h_before
    assert np.allclose(x, plain - (1 - times[4]) * math.expm1(-h) / 2 * change, rtol=1e-6)

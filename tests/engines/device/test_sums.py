"""Sums of held results: what numpy computes, wherever they are made."""

from __future__ import annotations

import fake_tensorrt
import numpy as np
import onnx
import pytest
from sum_graphs import made
from tensorrt_standin import tensorrt

from bagel_engines import Sums
from bagel_engines.device import linear_sums
from bagel_engines.onnxruntime.device_engine import on_host
from bagel_engines.tensorrt.lint import build, lint
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.sampling.step_cache import TaylorSeer
from bagel_rt.tensorrt.profiles import largest, sum_profile


@pytest.fixture
def rows(small_artefact):
    width = read_manifest(small_artefact).model.hidden_size
    return [np.random.default_rng(i).standard_normal((7, width)).astype(np.float32) for i in range(20)]


def same(got: np.ndarray, wanted: np.ndarray, engine) -> bool:
    """To the bit, but for an engine that joins operators: OpenVINO, in place of TensorRT, rounds once for two."""
    exact = engine.info.name == "onnxruntime"
    return np.array_equal(got, wanted) if exact else np.allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=["onnxruntime", "tensorrt"])
def engine(request, small_artefact, monkeypatch):
    monkeypatch.setattr(fake_tensorrt.Runtime, "log", [])
    return on_host() if request.param == "onnxruntime" else tensorrt(small_artefact)


def test_sums_on_a_device_are_those_on_the_host(engine, rows):
    host, device = Sums(), Sums(engine)
    a, b = engine.hold(rows[0]), engine.hold(rows[1])
    weight, distance = np.float32(1 / 3), np.float32(3)
    assert same(device.plus(a, weight, b).numpy(), host.plus(rows[0], weight, rows[1]), engine)
    assert same(device.slope(a, b, distance).numpy(), host.slope(rows[0], rows[1], distance), engine)
    assert np.array_equal(host.plus(rows[0], weight, rows[1]), rows[0] + weight * rows[1])


def test_a_forecast_from_held_rows_is_the_hosts_and_changes_none_of_them(engine, rows):
    here, there = TaylorSeer(), TaylorSeer(Sums(engine))
    held = [engine.hold(r) for r in rows]
    for i, row in enumerate(rows):
        wanted, got = here.step(lambda row=row: row), there.step(lambda i=i: held[i])
        assert same(got.numpy(), wanted, engine)
    assert all(np.array_equal(h.numpy(), r) for h, r in zip(held, rows, strict=True))


def test_held_rows_need_their_engine(engine, rows):
    with pytest.raises(ValueError, match="need that engine"):
        Sums().plus(engine.hold(rows[0]), np.float32(1), engine.hold(rows[1]))


@pytest.mark.parametrize("graph", [linear_sums.PLUS, linear_sums.SLOPE], ids=["plus", "slope"])
def test_the_graphs_that_are_shipped_are_those_of_the_recipe_and_build_for_nvidia(graph, small_artefact):
    assert onnx.load(graph) == made(graph.stem)
    assert lint(graph) == []
    model = read_manifest(small_artefact).model
    names = linear_sums.SUM_GRAPHS[graph.stem]
    assert build(graph, [sum_profile(names, model, largest(model))]).built

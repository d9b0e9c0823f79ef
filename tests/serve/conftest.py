"""A live server on loopback, one for the whole run."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from live_server import Lent, Live, serving

import bagel_rt


@pytest.fixture(scope="session")
def nano() -> Iterator[bagel_rt.Bagel]:
    """bagel-nano, which several servers of the run use: they do not close it."""
    with bagel_rt.load("bagel-nano", backend="onnxruntime") as bagel:
        yield bagel


@pytest.fixture(scope="session")
def live(nano) -> Iterator[Live]:
    with serving(lambda: Lent(nano), drain_seconds=5.0) as live:  # what a test left open holds up the end no longer
        yield live


@pytest.fixture(scope="session")
def circle(nano) -> bytes:
    """A PNG of a red circle, drawn by the model."""
    stream = io.BytesIO()
    nano.generate("a red circle", seed=1, num_timesteps=20).image.save(stream, "PNG")
    return stream.getvalue()

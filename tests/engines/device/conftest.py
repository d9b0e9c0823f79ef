"""A model twice: on a device that is the machine's own memory, and on the host."""

from __future__ import annotations

import pytest

import bagel_rt
from bagel_engines.onnxruntime.device_engine import on_host
from bagel_rt.api import Bagel
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.model.graphs import Graphs


@pytest.fixture
def pair(small_artefact):
    """The model with arrays on a device, which is the machine's own memory, and on the host."""
    manifest = read_manifest(small_artefact)
    with (
        Bagel(manifest, Graphs(manifest, on_host()), 4096) as device,
        bagel_rt.load(small_artefact, "onnxruntime", cache_tokens=4096) as host,
    ):
        yield device, host

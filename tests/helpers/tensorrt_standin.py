"""TensorRT without TensorRT: the engine that OpenVINO stands in for, and the card it is told of."""

from __future__ import annotations

from pathlib import Path

import fake_tensorrt

from bagel_engines import EngineInfo
from bagel_engines.device.arrays import HostMemory
from bagel_engines.tensorrt.engine import TensorRtEngine
from bagel_engines.tensorrt.plan_builder import Flavour
from bagel_engines.tensorrt.plan_store import Target
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.tensorrt.stores import plans_for

FAKE = Flavour("tensorrt", fake_tensorrt.module())
GPU = Target("a card, 24 GiB, compute capability 8.9", "13.0", "SM89")


def tensorrt(artefact: Path) -> TensorRtEngine:
    """The engine for an artefact, its arrays in the machine's own memory."""
    info = EngineInfo("tensorrt", "11.4.0", "cuda:0", "float32")
    return TensorRtEngine(FAKE, plans_for(read_manifest(artefact)), GPU, HostMemory(), info)

"""TensorRT without TensorRT: the engine that OpenVINO stands in for, and the card it is told of."""

from __future__ import annotations

import fake_tensorrt

from bagel_engines.tensorrt.plan_builder import Flavour
from bagel_engines.tensorrt.plan_store import Target

FAKE = Flavour("tensorrt", fake_tensorrt.module())
GPU = Target("a card, 24 GiB, compute capability 8.9", "13.0", "SM89")

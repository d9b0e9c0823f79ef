"""Engines: load an ONNX graph file and compute it. This package knows tensors and devices, nothing of BAGEL.

An `Engine` (protocol.py) makes a `Runner` of a graph file and a `Cache` for keys and values. OpenVINO, ONNX Runtime (on
the CPU and on CUDA) and TensorRT each have a room of their own, and none imports another's. A new engine is a folder
beside them and its name in select.py; engines that compute on a device find arrays, cache and CUDA in device/.
"""

from bagel_engines.device.arrays import fetched
from bagel_engines.device.largest import Largest, Places
from bagel_engines.device.linear_sums import Sums
from bagel_engines.device.recorded_runs import repeating
from bagel_engines.device.token_chain import Begun, TokenChain
from bagel_engines.host_cache import HostCache
from bagel_engines.host_memory import trim
from bagel_engines.inherited import kept_in_children
from bagel_engines.protocol import (
    Cache,
    Engine,
    EngineFailure,
    EngineInfo,
    Held,
    LowRank,
    OutOfDeviceMemory,
    Runner,
    Tensor,
    Thin,
)
from bagel_engines.select import installed, open_engine
from bagel_engines.settings import Settings

__all__ = [
    "Begun",
    "Cache",
    "Engine",
    "EngineFailure",
    "EngineInfo",
    "Held",
    "HostCache",
    "Largest",
    "LowRank",
    "OutOfDeviceMemory",
    "Places",
    "Runner",
    "Settings",
    "Sums",
    "Tensor",
    "Thin",
    "TokenChain",
    "fetched",
    "installed",
    "kept_in_children",
    "open_engine",
    "repeating",
    "trim",
]

"""Engines: what loads a graph file and computes it. Knows tensors and devices, nothing of BAGEL."""

from bagel_engines.device.linear_sums import Sums
from bagel_engines.device.recorded_runs import repeating
from bagel_engines.host_cache import HostCache
from bagel_engines.host_memory import trim
from bagel_engines.protocol import Cache, Engine, EngineFailure, EngineInfo, Held, OutOfDeviceMemory, Runner, Tensor
from bagel_engines.select import installed, open_engine
from bagel_engines.settings import Settings

__all__ = [
    "Cache",
    "Engine",
    "EngineFailure",
    "EngineInfo",
    "Held",
    "HostCache",
    "OutOfDeviceMemory",
    "Runner",
    "Settings",
    "Sums",
    "Tensor",
    "installed",
    "open_engine",
    "repeating",
    "trim",
]

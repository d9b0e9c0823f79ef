"""Engines: what loads a graph file and computes it. Knows tensors and devices, nothing of BAGEL."""

from bagel_engines.host import HostCache
from bagel_engines.repeats import repeating
from bagel_engines.runner import Cache, Engine, EngineFailure, EngineInfo, Held, OutOfDeviceMemory, Runner, Tensor
from bagel_engines.select import installed, open_engine
from bagel_engines.settings import Settings
from bagel_engines.sums import Sums
from bagel_engines.trim import trim

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

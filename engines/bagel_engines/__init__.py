"""Engines: what loads a graph file and computes it. Knows tensors and devices, nothing of BAGEL."""

from bagel_engines.runner import Engine, EngineFailure, EngineInfo, Runner
from bagel_engines.select import installed, open_engine

__all__ = ["Engine", "EngineFailure", "EngineInfo", "Runner", "installed", "open_engine"]

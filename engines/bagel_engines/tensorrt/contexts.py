"""Execution contexts of a loaded plan, and the kernels that TensorRT-RTX compiles for them, which are kept on disk.

TensorRT-RTX finishes a plan on the machine that runs it, as shapes come. What it compiled lies beside the plan, named
by the plan's key, and the next process takes it from there. It refuses what another GPU, driver or version of it made.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from bagel_engines import disk
from bagel_engines.protocol import EngineFailure

SUFFIX = ".kernels"


def compiles(trt: Any) -> bool:
    """Whether plans are compiled while they run (TensorRT-RTX), and not when they are built (TensorRT 11)."""
    return hasattr(getattr(trt, "IRuntimeConfig", None), "create_runtime_cache")


class Kernels:
    """The compiled kernels of one plan; they stay when the plan is given back."""

    def __init__(self, engine: Any, plan: Path):
        self.cache = engine.create_runtime_config().create_runtime_cache()
        self._path = plan.with_suffix(SUFFIX)
        self._kept = self._read()

    def save(self) -> None:
        """Keep what was compiled since, where that can be."""
        found = self.cache.serialize()
        compiled = b"" if found is None else bytes(memoryview(found))
        if compiled and compiled != self._kept:
            with suppress(OSError):  # a folder of plans may be there to be read only
                disk.write_whole(self._path, compiled)
                self._kept = compiled

    def _read(self) -> bytes:
        """What an earlier process kept; nothing where there is none, or TensorRT does not take it."""
        try:
            kept = self._path.read_bytes()
        except OSError:
            return b""
        return kept if kept and self.cache.deserialize(kept) else b""


class Contexts:
    """Makes contexts of a plan. All of them are given scratch memory by the caller."""

    def __init__(self, trt: Any, engine: Any, graph: str, kernels: Kernels | None):
        """kernels: None where plans are not compiled while they run."""
        self._trt, self._engine, self._graph, self._kernels = trt, engine, graph, kernels
        self._scratch = trt.ExecutionContextAllocationStrategy.USER_MANAGED

    def make(self, repeated: bool = False) -> Any:
        """A context. repeated: for runs of one shape that come again and are captured.

        Kernels for a new shape are compiled beside the run, in which general ones compute; for repeated runs at once,
        as what is captured is what will be played.
        """
        how = self._scratch if self._kernels is None else self._compiling(self._kernels, repeated)
        context = self._engine.create_execution_context(how)
        if context is None:
            raise EngineFailure(f"tensorrt has no room for an execution context of '{self._graph}'")
        return context

    def _compiling(self, kernels: Kernels, repeated: bool) -> Any:
        kinds, config = self._trt.DynamicShapesKernelSpecializationStrategy, self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._scratch)
        config.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER if repeated else kinds.LAZY
        if not config.set_runtime_cache(kernels.cache):
            raise EngineFailure(f"tensorrt keeps no compiled kernels of '{self._graph}': install another version")
        return config

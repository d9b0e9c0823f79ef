"""TensorRT as an engine: builds a plan of each graph once, and runs it with all arrays on the device.

One backend, two flavours with the same API: TensorRT 11 and TensorRT-RTX. Not executed on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines import disk
from bagel_engines.device import cuda
from bagel_engines.device.arrays import DeviceArray, DeviceCache, Memory, on_device
from bagel_engines.device.linear_sums import SUM_GRAPHS
from bagel_engines.protocol import Arrays, EngineFailure, EngineInfo, LowRank, refuse_added
from bagel_engines.tensorrt import plan_builder
from bagel_engines.tensorrt.contexts import Contexts, Kernels, compiles
from bagel_engines.tensorrt.load_errors import Refused
from bagel_engines.tensorrt.log import collected
from bagel_engines.tensorrt.plan_builder import BuildSettings, Flavour, Profile
from bagel_engines.tensorrt.plan_store import PlanKey, PlanStore, Target, key_for, record_of, refusal
from bagel_engines.tensorrt.recordings import Recordings
from bagel_engines.tensorrt.runner import Activations, Shared, TensorRtRunner

TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class Plans:
    """Where plans are kept and what they are built for.

    model: a name that changes when graphs or weights do. profiles: gives the optimisation profiles (ranges of input
    shapes) of a graph, by its file's stem. budget: bytes of weights kept on the device, the rest being streamed from
    the host while a plan runs; None keeps all on the device.
    """

    folder: Path
    model: str
    profiles: Callable[[str], Sequence[Profile]]
    budget: int | None = None
    on_step: Callable[[str, str, int, int], None] | None = None  # graph, phase, done, total

    def settings(self, graph: str, target: Target) -> BuildSettings:
        named, here = (None, target.architecture) if target.is_here else (target.architecture, None)
        return BuildSettings(tuple(self.profiles(graph)), named, self.budget is not None, here)

    def key(self, graph: Path, found: Flavour, target: Target) -> PlanKey:
        return key_for(self.model, graph, found, target, self.settings(graph.stem, target))


def plan_file(found: Flavour, graph: Path, plans: Plans, target: Target) -> Path:
    """The plan of a graph, built when there is none for exactly this target."""
    key, store = plans.key(graph, found, target), PlanStore(plans.folder)
    if (path := store.find(key)) is not None:
        return path
    store.make_folder()
    report = plans.on_step
    on_step = None if report is None else lambda phase, done, total: report(graph.stem, phase, done, total)
    plan = plan_builder.build(found, graph, key.settings, plans.folder / TIMING_CACHE, on_step)
    return store.save(key, plan)


class TensorRtEngine:
    takes_zero_rows = True
    needs = None

    def __init__(
        self,
        found: Flavour,
        plans: Plans,
        target: Target,
        memory: Memory,
        info: EngineInfo,
        record: bool = False,
    ):
        self.info, self._found, self._plans, self._target = info, found, plans, target
        self._memory, self._log = memory, collected(found.trt)
        self._shared = Shared(memory, Activations(memory), Activations(memory), self._log)
        self._kernels: dict[Path, Kernels] = {}  # by plan, also of plans that were given back since
        if record:
            recordings = self._shared.recordings = Recordings(self._tell, left_out=SUM_GRAPHS)
            for scratch in (self._shared.activations, self._shared.unwanted):
                scratch.before_growth = recordings.close  # recordings hold the old buffer's address
        self._runtime = found.trt.Runtime(self._log)

    def load(self, graph: Path, prime: Arrays | None = None, added: LowRank | None = None) -> TensorRtRunner:
        """Load the graph's plan, built where there is none. Raises EngineFailure for one that was found to compute
        wrongly."""
        refuse_added(added, "tensorrt")
        path = self.plan_of(graph)
        if (reason := refusal(path, record := record_of(path))) is not None:
            raise EngineFailure(reason)
        return self._opened(graph, path, None if record.get("executed") else lambda: self._keep_that_it_ran(graph))

    def load_unproven(self, graph: Path) -> TensorRtRunner:
        """`load` for comparing the plan with another engine: loads it whatever an earlier comparison found."""
        return self._opened(graph, self.plan_of(graph))

    def keep_comparison(self, graph: Path, found: Mapping[str, Any]) -> None:
        """Write a comparison's result into the record beside the graph's plan; `load` refuses a plan that did not pass.

        found: "passed", "outputs" (each with "output", "relative_l2", "tolerance", "passed"), "reference", "date".
        """
        PlanStore(self._plans.folder).note(self._key(graph), executed=True, compared=dict(found))

    def _keep_that_it_ran(self, graph: Path) -> None:
        with suppress(OSError):  # a plan may be used where its record cannot be written
            PlanStore(self._plans.folder).note(self._key(graph), executed=True)

    def _key(self, graph: Path) -> PlanKey:
        return self._plans.key(graph, self._found, self._target)

    def plan_of(self, graph: Path) -> Path:
        """The graph's plan, built where there is none."""
        return plan_file(self._found, graph, self._plans, self._target)

    def _opened(self, graph: Path, path: Path, ran: Callable[[], None] | None = None) -> TensorRtRunner:
        self._log.clear()
        with disk.mapping(path) as plan:
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            refused = Refused(self._found, path, record_of(path), self._target, self._log.last)
            raise refused.failure(self._runtime)
        if self._plans.budget is not None:
            engine.weight_streaming_budget_v2 = self._plans.budget
        contexts = Contexts(self._found.trt, engine, graph.stem, self._kernels_of(engine, path))
        return TensorRtRunner(self._found.trt, engine, graph.stem, self._shared, contexts, ran)

    def _kernels_of(self, engine: Any, path: Path) -> Kernels | None:
        if compiles(self._found.trt) and path not in self._kernels:
            self._kernels[path] = Kernels(engine, path)
        return self._kernels.get(path)

    def repeating(self) -> AbstractContextManager[None]:
        """Runs inside may be recorded as CUDA graphs and played when they come again (recordings.py)."""
        return nullcontext() if self._shared.recordings is None else self._shared.recordings.marked()

    def _tell(self, remark: str) -> None:
        self.info = replace(self.info, remark=remark)

    def hold(self, array: np.ndarray) -> DeviceArray:
        return on_device(self._memory, array)

    def release(self) -> None:
        while self._kernels:
            self._kernels.popitem()[1].save()
        if self._shared.recordings is not None:
            self._shared.recordings.close()
        self._shared.activations.drop()
        self._shared.unwanted.drop()
        self._memory.trim()

    def cache(self, halves: int, slots: int, row: tuple[int, int], dtype: np.dtype) -> DeviceCache:
        return DeviceCache(self._memory, halves, slots, row, dtype)


def on_cuda(
    device: str, arithmetic: str, weights: int, plans: Plans, record: bool = False, flavour: str | None = None
) -> TensorRtEngine:
    """The engine on "cuda" or "cuda:N". record: runs inside `repeating` become CUDA graphs. flavour: None is the one
    installed.

    Raises EngineFailure for a missing package, driver, device or memory."""
    found = plan_builder.flavour(flavour)
    index = cuda.device_index("cuda" if device == "cpu" else device)
    cuda.check_room(index, weights if plans.budget is None else plans.budget)
    info = EngineInfo(found.name, found.version, f"cuda:{index}", arithmetic)
    memory = cuda.CudaMemory(index)  # also makes it this thread's current device
    return TensorRtEngine(found, plans, Target.at_hand(index), memory, info, record)

"""TensorRT as an engine: builds a plan of each graph once, and runs it with all arrays on the device.

One backend, two flavours with the same API: TensorRT 11 and TensorRT-RTX. Not executed on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines import disk
from bagel_engines.device import cuda
from bagel_engines.device.arrays import DeviceArray, DeviceCache, HostStream, Memory, Stream, on_device
from bagel_engines.device.recorded_runs import Recording, Repeats
from bagel_engines.protocol import Arrays, EngineFailure, EngineInfo, LowRank, Tensors, refuse_added
from bagel_engines.tensorrt import plan_builder
from bagel_engines.tensorrt.load_errors import Refused
from bagel_engines.tensorrt.log import collected
from bagel_engines.tensorrt.plan_builder import BuildSettings, Flavour, Profile
from bagel_engines.tensorrt.plan_store import PlanKey, PlanStore, Target, key_for, record_of, refusal

TIMING_CACHE = "timing.cache"
ALIGNMENT = 256  # TensorRT takes addresses that are multiples of so many bytes


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


class Activations:
    """One scratch buffer for all runners of an engine, as only one of them runs at a time. It grows when one needs
    more."""

    def __init__(self, memory: Memory):
        self._memory, self._array = memory, None
        self.before_growth: Callable[[], None] = lambda: None  # called before the buffer is replaced by a larger one

    def drop(self) -> None:
        """Give it back; the next call takes what it needs."""
        self._array = None

    def at_least(self, size: int) -> DeviceArray:
        if self._array is None or self._array.nbytes < size:
            self.before_growth()
            self._array = None  # frees the old buffer before a larger one is allocated
            self._array = DeviceArray(self._memory, (max(1, size),), np.dtype(np.uint8))
        return self._array


@dataclass
class Shared:
    """What the runners of an engine have in common. repeats: recordings of CUDA graphs, None where none are made."""

    memory: Memory
    stream: Stream
    activations: Activations
    unwanted: Activations  # a buffer for outputs that nobody asked for: TensorRT must write them somewhere
    repeats: Repeats | None = None


class TensorRtRunner:
    """A loaded plan with one execution context."""

    def __init__(self, trt: Any, engine: Any, name: str, shared: Shared, ran: Callable[[], None] | None = None):
        """ran: called once, after the first run, to record that the plan was executed."""
        self._trt, self._engine, self._name, self._shared = trt, engine, name, shared
        self._ran = ran
        self._memory = shared.memory
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = {n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT}
        self.inputs = tuple(n for n in names if n in inputs)
        self.outputs = tuple(n for n in names if n not in inputs)
        self._dtypes = {n: numpy_type(trt, engine.get_tensor_dtype(n)) for n in names}
        self._context = self._new_context()

    def run(self, inputs: Tensors, outputs: Sequence[str], held: Container[str] = ()) -> dict[str, Any]:
        given = {name: self._given(name, tensor) for name, tensor in inputs.items()}  # alive until the run is over
        repeats = self._shared.repeats
        if repeats is not None and repeats.active(self._name):
            results = repeats.run(
                self._name,
                tuple(outputs),
                given,
                lambda: self._computed(given, outputs),
                lambda inputs, shapes: self._recorded({**given, **inputs}, inputs, tuple(shapes)),
            )
        else:
            results = self._computed(given, outputs)
        if self._ran is not None:
            self._ran, ran = None, self._ran
            ran()
        return {name: results[name] if name in held else results[name].numpy() for name in outputs}

    def _computed(self, given: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, DeviceArray]:
        self._bind(self._context, given)
        results, _ = self._results(self._context, outputs)
        self._done(self._context.execute_async_v3(self._shared.stream.handle), "start")
        self._shared.stream.wait()
        return results

    def _recorded(
        self, given: Mapping[str, Any], moving: Mapping[str, DeviceArray], outputs: Sequence[str]
    ) -> Recording:
        """A run on these arrays, captured. It has a context of its own: a context's other runs would change it."""
        context, stream = self._new_context(), self._shared.stream
        scratch = self._bind(context, given)
        results, unwanted = self._results(context, outputs)
        # an ordinary run first, in which TensorRT finishes its set-up for new shapes
        self._done(context.execute_async_v3(stream.handle), "start")
        stream.wait()
        capturable = getattr(context, "is_stream_capturable", None)  # TensorRT-RTX only
        if capturable is not None and not capturable(stream.handle):
            raise EngineFailure(f"graph '{self._name}' cannot be captured, says TensorRT-RTX")
        replay = stream.capture(lambda: self._done(context.execute_async_v3(stream.handle), "start"))
        kept = (context, scratch, unwanted)  # the captured run goes on using them

        def play(_kept: Any = kept) -> None:
            replay()

        return Recording(moving, results, play, replay.close)

    def _new_context(self) -> Any:
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise EngineFailure(f"tensorrt has no room for an execution context of '{self._name}'")
        return context

    def _bind(self, context: Any, given: Mapping[str, Any]) -> DeviceArray:
        """Set a context's profile, inputs and scratch memory; returns the scratch memory."""
        profile = self._profile({name: tuple(tensor.shape) for name, tensor in given.items()})
        if context.active_optimization_profile != profile:
            taken = context.set_optimization_profile_async(profile, self._shared.stream.handle)
            self._done(taken, f"take profile {profile}")
        for name, tensor in given.items():
            self._done(context.set_input_shape(name, tuple(tensor.shape)), f"take {name} of shape {tensor.shape}")
            self._done(context.set_tensor_address(name, tensor.address), f"bind {name}")
        scratch = self._shared.activations.at_least(self._engine.get_device_memory_size_for_profile_v2(profile))
        context.set_device_memory(scratch.address, scratch.nbytes)
        return scratch

    def _given(self, name: str, tensor: Any) -> Any:
        if not isinstance(tensor, np.ndarray):
            return tensor
        return on_device(self._memory, tensor.astype(self._dtypes[name], copy=False))

    def _results(self, context: Any, wanted: Sequence[str]) -> tuple[dict[str, DeviceArray], DeviceArray]:
        """Set a context's outputs: an array of its own for each wanted one; the others share the buffer `unwanted`."""
        shapes = {name: self._shape(context, name) for name in self.outputs}
        results = {name: DeviceArray(self._memory, shapes[name], self._dtypes[name]) for name in wanted}
        places, end = {}, 0
        for name in (n for n in self.outputs if n not in results):
            places[name] = end
            end += -(-int(np.prod(shapes[name])) * self._dtypes[name].itemsize // ALIGNMENT) * ALIGNMENT
        unwanted = self._shared.unwanted.at_least(end)
        addresses = {name: array.address for name, array in results.items()}
        addresses |= {name: unwanted.address + place for name, place in places.items()}
        for name, address in addresses.items():
            self._done(context.set_tensor_address(name, address), f"bind {name}")
        return results, unwanted

    def _shape(self, context: Any, name: str) -> tuple[int, ...]:
        shape = tuple(context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise EngineFailure(f"tensorrt cannot tell the shape of {name} in graph '{self._name}'")
        return shape

    def _profile(self, shapes: dict[str, tuple[int, ...]]) -> int:
        """The number of the first optimisation profile that takes these shapes."""
        for profile in range(self._engine.num_optimization_profiles):
            if all(self._fits(name, profile, shape) for name, shape in shapes.items()):
                return profile
        raise EngineFailure(
            f"graph '{self._name}' was built for other sizes than {shapes}; build again with larger --max-height,"
            " --max-width or --max-context"
        )

    def _fits(self, name: str, profile: int, shape: tuple[int, ...]) -> bool:
        low, _, high = (tuple(s) for s in self._engine.get_tensor_profile_shape(name, profile))
        return len(low) == len(shape) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))

    def _done(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise EngineFailure(f"tensorrt cannot {what} in graph '{self._name}'")


def numpy_type(trt: Any, dtype: Any) -> np.dtype:
    """numpy's type for one of TensorRT's; bfloat16 as its bits."""
    kinds = trt.DataType
    known = {
        kinds.FLOAT: np.float32, kinds.HALF: np.float16, kinds.BF16: np.uint16, kinds.INT64: np.int64,
        kinds.INT32: np.int32, kinds.BOOL: np.bool_,
    }  # fmt: skip
    if dtype not in known:
        raise EngineFailure(f"a graph's tensor has TensorRT's type {dtype}, which is not handed over")
    return np.dtype(known[dtype])


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
        stream: Stream | None = None,
        record: bool = False,
    ):
        self.info, self._found, self._plans, self._target = info, found, plans, target
        self._memory = memory
        self._shared = Shared(memory, stream or HostStream(), Activations(memory), Activations(memory))
        if record:
            repeats = self._shared.repeats = Repeats(memory, self._tell)
            for scratch in (self._shared.activations, self._shared.unwanted):
                scratch.before_growth = repeats.close  # recordings hold the old buffer's address
        self._log = collected(found.trt)
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
        return TensorRtRunner(self._found.trt, engine, graph.stem, self._shared, ran)

    def repeating(self) -> AbstractContextManager[None]:
        """Runs inside may be recorded as CUDA graphs and replayed when they come again (device/recorded_runs.py)."""
        return nullcontext() if self._shared.repeats is None else self._shared.repeats.marked()

    def _tell(self, remark: str) -> None:
        self.info = replace(self.info, remark=remark)

    def hold(self, array: np.ndarray) -> DeviceArray:
        return on_device(self._memory, array)

    def release(self) -> None:
        if self._shared.repeats is not None:
            self._shared.repeats.close()
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
    return TensorRtEngine(found, plans, Target.at_hand(index), memory, info, cuda.CudaStream(), record)

"""Runs a loaded plan: inputs and results on the device, one call to TensorRT a run, and nothing waited for but a result
that somebody reads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bagel_engines.device.arrays import DeviceArray, Memory, on_device
from bagel_engines.protocol import EngineFailure, Tensors
from bagel_engines.tensorrt.bindings import Bindings, Shape
from bagel_engines.tensorrt.contexts import Contexts
from bagel_engines.tensorrt.recordings import Recordings, Repeated

REMEMBERED = 64  # kinds of shapes of repeated runs
ALIGNMENT = 256  # TensorRT takes addresses that are multiples of so many bytes


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
            self._array = DeviceArray(self._memory, (max(1, size),), np.dtype(np.uint8), reused=False)
        return self._array


@dataclass
class Shared:
    """What the runners of an engine have in common. log: TensorRT's words (log.collected). recordings: of CUDA graphs,
    None where none are made."""

    memory: Memory
    activations: Activations
    unwanted: Activations  # a buffer for outputs that nobody asked for: TensorRT must write them somewhere
    log: Any
    recordings: Recordings | None = None


class TensorRtRunner:
    """A loaded plan with an execution context for each profile that is used."""

    def __init__(
        self,
        trt: Any,
        engine: Any,
        name: str,
        shared: Shared,
        contexts: Contexts,
        ran: Callable[[], None] | None = None,
    ):
        """ran: called once, after the first run, to record that the plan was executed."""
        self._engine, self._name, self._shared, self._contexts = engine, name, shared, contexts
        self._ran = ran
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = {n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT}
        self.inputs = tuple(n for n in names if n in inputs)
        self.outputs = tuple(n for n in names if n not in inputs)
        self._dtypes = {n: numpy_type(trt, engine.get_tensor_dtype(n)) for n in names}
        profiles = range(engine.num_optimization_profiles)
        self._ranges = [{n: _range(engine, n, profile) for n in self.inputs} for profile in profiles]
        self._bound: dict[int, Bindings] = {}  # by profile
        self._spare: dict[int, list[Bindings]] = {}  # contexts of recordings that were dropped, by profile
        self._known: OrderedDict[Hashable, Mapping[str, Shape]] = OrderedDict()  # shapes of results by inputs'
        self._scratch = engine.device_memory_size_v2  # of the whole plan: no context is given less
        shared.activations.at_least(self._scratch)  # now, since growing later would drop recordings

    def run(self, inputs: Tensors, outputs: Sequence[str], held: Container[str] = ()) -> dict[str, Any]:
        given = {name: self._given(name, tensor) for name, tensor in inputs.items()}  # given back in the stream's order
        results = self._results(given, tuple(outputs))
        if self._ran is not None:
            self._shared.memory.stream.wait()
            self._ran, ran = None, self._ran
            ran()
        return {name: results[name] if name in held else results[name].numpy() for name in outputs}

    def _results(self, given: Mapping[str, Any], outputs: tuple[str, ...]) -> dict[str, DeviceArray]:
        """The outputs of a run that is in the stream."""
        recordings = self._shared.recordings
        if recordings is not None and recordings.active(self._name):
            return self._repeating(recordings, given, outputs)
        bindings = self._told(given)
        results = self._arrays({n: bindings.result(n) for n in outputs})
        self._run(bindings, results)
        return results

    def _repeating(
        self, recordings: Recordings, given: Mapping[str, Any], outputs: tuple[str, ...]
    ) -> dict[str, DeviceArray]:
        shapes = self._result_shapes(given)
        results = self._arrays({n: shapes[n] for n in outputs})
        places = tuple((n, tuple(a.shape), a.address) for n, a in (*sorted(given.items()), *results.items()))
        recordings.run(
            self._name,
            places,
            lambda: self._run(self._told(given), results),
            lambda: self._repeated(given, results),
        )
        return results

    def _result_shapes(self, given: Mapping[str, Any]) -> Mapping[str, Shape]:
        """Of all outputs; TensorRT is asked once for inputs of these shapes."""
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in sorted(given.items()))
        if shapes not in self._known:
            bindings = self._told(given)
            self._known[shapes] = {name: bindings.result(name) for name in self.outputs}
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return self._known[shapes]

    def _arrays(self, shapes: Mapping[str, Shape]) -> dict[str, DeviceArray]:
        return {name: DeviceArray(self._shared.memory, shape, self._dtypes[name]) for name, shape in shapes.items()}

    def _run(self, bindings: Bindings, results: Mapping[str, DeviceArray]) -> None:
        self._tell_results(bindings, results)
        bindings.run()

    def _repeated(self, given: Mapping[str, Any], results: Mapping[str, DeviceArray]) -> Repeated:
        """The run on these arrays in a context of its own, as others would change a shared one."""
        spare = self._spare.setdefault(profile := self._profile(given), [])
        bindings = spare.pop() if spare else self._new_bindings(profile, repeated=True)
        self._tell_inputs(bindings, given)
        self._tell_results(bindings, results)
        return Repeated(bindings, self._shared.memory.stream, self._name, lambda: spare.append(bindings))

    def _told(self, given: Mapping[str, Any]) -> Bindings:
        """The context of the profile that takes these inputs, told of them."""
        profile = self._profile(given)
        if profile not in self._bound:
            self._bound[profile] = self._new_bindings(profile)
        self._tell_inputs(self._bound[profile], given)
        return self._bound[profile]

    def _new_bindings(self, profile: int, repeated: bool = False) -> Bindings:
        context = self._contexts.make(repeated)
        return Bindings(context, self._name, profile, self._shared.memory.stream, self._shared.log)

    def _tell_inputs(self, bindings: Bindings, given: Mapping[str, Any]) -> None:
        for name, tensor in given.items():
            bindings.shape(name, tuple(tensor.shape))
            bindings.place(name, tensor.address)

    def _tell_results(self, bindings: Bindings, results: Mapping[str, DeviceArray]) -> None:
        """Places of all outputs: an array of its own for each wanted one; the others share the buffer `unwanted`."""
        places, end = {}, 0
        for name in (n for n in self.outputs if n not in results):
            places[name] = end
            end += -(-int(np.prod(bindings.result(name))) * self._dtypes[name].itemsize // ALIGNMENT) * ALIGNMENT
        unwanted = self._shared.unwanted.at_least(end)
        for name in self.outputs:
            bindings.place(name, results[name].address if name in results else unwanted.address + places[name])
        bindings.scratch(self._shared.activations.at_least(self._scratch))

    def _given(self, name: str, tensor: Any) -> Any:
        if not isinstance(tensor, np.ndarray):
            return tensor
        return on_device(self._shared.memory, tensor.astype(self._dtypes[name], copy=False))

    def _profile(self, given: Mapping[str, Any]) -> int:
        """The number of the first optimisation profile that takes these inputs."""
        shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
        for profile, ranges in enumerate(self._ranges):
            if all(_within(shape, *ranges[name]) for name, shape in shapes.items()):
                return profile
        raise EngineFailure(
            f"graph '{self._name}' was built for other sizes than {shapes}; build again with larger --max-height,"
            " --max-width or --max-context"
        )


def _range(engine: Any, name: str, profile: int) -> tuple[Shape, Shape]:
    low, _, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, profile))
    return low, high


def _within(shape: Shape, low: Shape, high: Shape) -> bool:
    return len(low) == len(shape) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))


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

"""ONNX Runtime with everything on a device: results stay there until they are asked for, the cache is written there."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines import cuda
from bagel_engines.device import DeviceArray, DeviceCache, HostMemory, Memory, on_device
from bagel_engines.runner import Arrays, EngineFailure, EngineInfo, OutOfDeviceMemory, Runner, Tensors

ONNX_TYPES = {"tensor(float)": 1, "tensor(int64)": 7, "tensor(bool)": 9, "tensor(float16)": 10, "tensor(bfloat16)": 16}
NUMPY_TYPES = {1: np.float32, 7: np.int64, 9: np.bool_, 10: np.float16, 16: np.uint16}  # bfloat16 as its bits
NO_MEMORY = re.compile(r"out of memory|failed to allocate|CUDA failure 2\b|available memory of", re.IGNORECASE)


class OrtHeld:
    """A runner.Held: a result in ONNX Runtime's own memory on the device."""

    def __init__(self, value: Any, memory: Memory):
        self._value, self._memory = value, memory
        self.shape, self.address = tuple(value.shape()), value.data_ptr()

    def numpy(self) -> np.ndarray:
        array = np.empty(self.shape, NUMPY_TYPES[self._value.element_type()])
        if array.size:
            self._memory.download(array, self.address)
        return array


class DeviceRunner:
    def __init__(self, session: Any, name: str, place: tuple[str, int], memory: Memory):
        self._session, self._name, self._place, self._memory = session, name, place, memory
        self._types = {v.name: ONNX_TYPES[v.type] for v in session.get_inputs()}
        self.inputs = tuple(i.name for i in session.get_inputs())
        self.outputs = tuple(o.name for o in session.get_outputs())

    def run(self, inputs: Tensors, outputs: Sequence[str], held: Container[str] = ()) -> dict[str, Any]:
        binding = self._session.io_binding()
        try:
            given = {name: self._given(tensor) for name, tensor in inputs.items()}  # kept until the run is over
            for name, tensor in given.items():
                binding.bind_input(name, *self._place, self._types[name], list(tensor.shape), tensor.address)
            for name in outputs:
                binding.bind_output(name, *self._place)
            self._session.run_with_iobinding(binding)
            values = zip(outputs, binding.get_outputs(), strict=True)
            results = {name: OrtHeld(value, self._memory) for name, value in values}
            return {name: result if name in held else result.numpy() for name, result in results.items()}
        except EngineFailure:
            raise
        except Exception as error:  # onnxruntime raises bare exceptions of its own and of Python's
            raise failure(f"onnxruntime failed in graph '{self._name}' on {self._place[0]}: {error}") from error

    def _given(self, tensor: Any) -> DeviceArray | OrtHeld:
        return on_device(self._memory, tensor) if isinstance(tensor, np.ndarray) else tensor


def failure(text: str) -> EngineFailure:
    return (OutOfDeviceMemory if NO_MEMORY.search(text) else EngineFailure)(text)


class OnnxRuntimeDeviceEngine:
    takes_zero_rows = False

    def __init__(self, ort: Any, info: EngineInfo, memory: Memory, providers: list, threads: int | None = None):
        self.info, self._ort, self._memory, self._providers, self._threads = info, ort, memory, providers, threads
        name, _, index = info.device.partition(":")
        self._place = (name, int(index or 0))

    def load(self, graph: Path, prime: Arrays | None = None) -> Runner:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        options.enable_mem_pattern = False  # shapes change from call to call
        if self._threads:
            options.intra_op_num_threads = self._threads
        try:
            session = self._ort.InferenceSession(str(graph), options, providers=self._providers)
        except Exception as error:
            raise failure(f"onnxruntime cannot load {graph} on {self.info.device}: {error}") from error
        return DeviceRunner(session, graph.stem, self._place, self._memory)

    def hold(self, array: np.ndarray) -> DeviceArray:
        return on_device(self._memory, array)

    def cache(self, halves: int, slots: int, row: tuple[int, int], dtype: np.dtype) -> DeviceCache:
        return DeviceCache(self._memory, halves, slots, row, dtype)


def on_cuda(device: str, threads: int | None, arithmetic: str, weights: int) -> OnnxRuntimeDeviceEngine:
    """The engine on "cuda" or "cuda:N"; `weights` bytes must be free there. Raises EngineFailure before any is read."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise EngineFailure(
            f"onnxruntime {onnxruntime.__version__} is installed without CUDA; run: pip uninstall onnxruntime,"
            f" then {cuda.INSTALL}"
        )
    index = cuda.device_index(device)
    cuda.check_room(index, weights)
    onnxruntime.preload_dlls()  # CUDA's libraries from their wheels, where nothing else has loaded them
    options = {
        "device_id": str(index),
        "use_tf32": "0",  # float32 means float32
        "arena_extend_strategy": "kSameAsRequested",
    }
    info = EngineInfo("onnxruntime", onnxruntime.__version__, f"cuda:{index}", arithmetic)
    providers = [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    return OnnxRuntimeDeviceEngine(onnxruntime, info, cuda.CudaMemory(index), providers, threads)


def on_host() -> OnnxRuntimeDeviceEngine:
    """The same engine with the machine's own memory as its device: what it does, without what CUDA does."""
    import onnxruntime

    info = EngineInfo("onnxruntime", onnxruntime.__version__, "cpu", "float32")
    return OnnxRuntimeDeviceEngine(onnxruntime, info, HostMemory(), ["CPUExecutionProvider"])

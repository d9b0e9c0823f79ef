"""CUDA through cuda-python: devices and their free memory, allocations and copies, streams and captured graphs."""

from __future__ import annotations

import ctypes
import heapq
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from bagel_engines.protocol import EngineFailure, OutOfDeviceMemory

INSTALL = "pip install 'bagel-rt[cuda]'"
CUDNN = "libcudnn.so.9" if sys.platform == "linux" else "cudnn64_9.dll"
NO_CUDNN = "cuDNN 9 was not found, so pictures can be neither read nor drawn: pip install nvidia-cudnn-cu13"


def runtime() -> Any:
    """cuda-python's runtime bindings. Raises EngineFailure when they are not installed."""
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        raise EngineFailure(f"cuda-python is not installed; run: {INSTALL}")
    from cuda.bindings import runtime as bindings  # type: ignore[import-not-found]

    return bindings


def checked(result: tuple, what: str) -> Any:
    """The value of a cuda-python call, which returns (status, values...). Raises EngineFailure, or OutOfDeviceMemory,
    with CUDA's own words."""
    status, *values = result
    if int(status) != 0:
        words = runtime().cudaGetErrorString(status)[1].decode()
        kind = OutOfDeviceMemory if int(status) == 2 else EngineFailure
        raise kind(f"CUDA cannot {what}: {words} ({status.name})")
    return values[0] if len(values) == 1 else tuple(values)


def versions() -> tuple[int, int]:
    """(driver, runtime) as CUDA counts them, 13050 for 13.5; the driver's is 0 where there is none."""
    bindings = runtime()
    driver = checked(bindings.cudaDriverGetVersion(), "tell the driver's version")
    return driver, checked(bindings.cudaRuntimeGetVersion(), "tell its own version")


def cudnn_version() -> str | None:
    """Of the cuDNN that is loaded, or would be; None where there is none."""
    try:
        tell = ctypes.CDLL(CUDNN).cudnnGetVersion
    except (OSError, AttributeError):
        return None
    tell.restype = ctypes.c_size_t
    number = tell()
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def device_count() -> int:
    """Raises EngineFailure where the driver is missing or older than the runtime."""
    driver, own = versions()
    if driver == 0:
        raise EngineFailure("no NVIDIA driver was found; install one that supports CUDA " + dotted(own))
    if driver // 1000 < own // 1000:  # within one major version older drivers do
        raise EngineFailure(
            f"the NVIDIA driver supports CUDA {dotted(driver)} and cuda-python {dotted(own)} needs {own // 1000}.0 or"
            " newer: install a newer driver, or cuda-python of the driver's version"
        )
    return checked(runtime().cudaGetDeviceCount(), "count devices")


def dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def device_index(device: str) -> int:
    """N of "cuda:N", 0 of "cuda". Raises EngineFailure for another word, or a device that this machine lacks."""
    name, _, number = device.partition(":")
    if name != "cuda" or (number and not number.isdecimal()):
        raise EngineFailure(f"device {device!r} is unknown; allowed: cpu, cuda, cuda:N")
    index, count = int(number or 0), device_count()
    if index >= count:
        raise EngineFailure(f"device cuda:{index} is not there; this machine has {count} CUDA device(s)")
    return index


def check_room(index: int, needed: int) -> None:
    """Raises EngineFailure when a device has less free memory than the weights alone take."""
    bindings = runtime()
    checked(bindings.cudaSetDevice(index), f"use device {index}")
    free, total = checked(bindings.cudaMemGetInfo(), "tell the free memory")
    if needed > free:
        raise EngineFailure(
            f"cuda:{index} has {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, the model's weights take"
            f" {needed / 2**30:.1f}: export with a smaller --precision, or choose another device"
        )


def architecture(index: int) -> str:
    """A device's, as NVIDIA's builders name it: SM89 of compute capability 8.9."""
    found = _properties(index)
    return f"SM{found.major}{found.minor}"


def _properties(index: int) -> Any:
    return checked(runtime().cudaGetDeviceProperties(index), f"describe device {index}")


def capability(index: int) -> tuple[int, int]:
    """A device's compute capability."""
    bindings, kinds = runtime(), runtime().cudaDeviceAttr
    wanted = kinds.cudaDevAttrComputeCapabilityMajor, kinds.cudaDevAttrComputeCapabilityMinor
    major, minor = (
        checked(bindings.cudaDeviceGetAttribute(kind, index), f"describe device {index}") for kind in wanted
    )
    return int(major), int(minor)


def describe(index: int) -> str:
    """A device's name, memory and compute capability."""
    found = _properties(index)
    name = found.name.decode() if isinstance(found.name, bytes) else found.name
    return f"{name}, {found.totalGlobalMem / 2**30:.0f} GiB, compute capability {found.major}.{found.minor}"


class CudaStream:
    """A Stream of CUDA, of the blocking kind: it and the default stream wait for each other, so what a library puts
    there keeps its order, too.

    Capturing is written after CUDA's documentation; it was not executed on a GPU.
    """

    def __init__(self) -> None:
        self._cuda = runtime()
        self._stream = checked(self._cuda.cudaStreamCreate(), "make a stream")
        self.handle = int(self._stream)

    def wait(self) -> None:
        checked(self._cuda.cudaStreamSynchronize(self._stream), "finish a run")

    def move(self, target: int, source: int, size: int, kind: Any, verb: str) -> None:
        """Put a copy into it. kind: cuda-python's, of where from and to; verb: for messages."""
        checked(self._cuda.cudaMemcpyAsync(target, source, size, kind, self._stream), f"{verb} {size} bytes")

    def capture(self, work: Callable[[], None]) -> CudaReplay:
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal  # other threads may use the device
        checked(self._cuda.cudaStreamBeginCapture(self._stream, mode), "begin to capture")
        try:
            work()
        except BaseException:
            self._cuda.cudaStreamEndCapture(self._stream)  # `work` failed: the stream must not stay in capture mode
            raise
        graph = checked(self._cuda.cudaStreamEndCapture(self._stream), "capture a run")
        try:
            executable = checked(self._cuda.cudaGraphInstantiate(graph, 0), "make a graph of a captured run")
        finally:
            checked(self._cuda.cudaGraphDestroy(graph), "give a graph back")
        return CudaReplay(self._cuda, executable, self._stream)


class CudaReplay:
    """A Replay of CUDA: an instantiated graph, launched on the stream it was captured from."""

    def __init__(self, bindings: Any, executable: Any, stream: Any):
        self._cuda, self._executable, self._stream = bindings, executable, stream

    def __call__(self) -> None:
        checked(self._cuda.cudaGraphLaunch(self._executable, self._stream), "start a captured run")

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self._executable is not None:
            self._cuda.cudaGraphExecDestroy(self._executable)
            self._executable = None


class CudaLanding:
    """A Landing in pinned memory, without which a download would be waited for where it is asked for."""

    def __init__(self, bindings: Any, stream: CudaStream, size: int):
        self._cuda, self._stream, self._size = bindings, stream, size
        self._event = checked(bindings.cudaEventCreate(), "make an event")
        self._address = int(checked(bindings.cudaMallocHost(size), f"take {size} bytes of pinned memory"))

    def begin(self, source: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._stream.move(self._address, source, self._size, kind, "download")
        checked(self._cuda.cudaEventRecord(self._event, self._stream.handle), "mark a download")

    def read(self) -> np.ndarray:
        checked(self._cuda.cudaEventSynchronize(self._event), "finish a download")
        return np.frombuffer(ctypes.string_at(self._address, self._size), np.uint8)

    def __del__(self) -> None:
        if hasattr(self, "_address"):
            self._cuda.cudaEventSynchronize(self._event)  # what was begun and never read
            self._cuda.cudaEventDestroy(self._event)
            self._cuda.cudaFreeHost(self._address)


class CudaMemory:
    """The Memory of one CUDA device. What is given back is kept, by size, for the next take().

    Of those of a size the lowest is taken, so that work that comes again, such as a denoising step, finds its arrays in
    the same places, in whatever order they were given back.
    """

    def __init__(self, index: int):
        self._cuda, self._kinds = runtime(), runtime().cudaMemcpyKind
        self._sizes: dict[int, int] = {}
        self._spare: dict[int, list[int]] = {}
        self._index = index
        self._use_device()
        self.stream = CudaStream()

    def take(self, size: int) -> int:
        if spare := self._spare.get(size):
            return heapq.heappop(spare)
        self._use_device()
        address = int(checked(self._cuda.cudaMalloc(max(1, size)), f"take {size} bytes"))
        self._sizes[address] = size
        return address

    def give(self, address: int) -> None:
        heapq.heappush(self._spare.setdefault(self._sizes[address], []), address)

    def free(self, address: int) -> None:
        self.stream.wait()  # something in it may still use this
        checked(self._cuda.cudaFree(address), "give memory back")
        del self._sizes[address]

    def trim(self) -> None:
        while self._spare:
            for address in self._spare.popitem()[1]:
                self.free(address)

    def upload(self, target: int, array: np.ndarray) -> None:
        # from pageable memory, which is read before the call returns
        self.stream.move(target, array.ctypes.data, array.nbytes, self._kinds.cudaMemcpyHostToDevice, "upload")

    def download(self, array: np.ndarray, source: int) -> None:
        self.download_all([(array, source)])

    def download_all(self, pieces: Sequence[tuple[np.ndarray, int]]) -> None:
        for array, source in pieces:
            self.stream.move(array.ctypes.data, source, array.nbytes, self._kinds.cudaMemcpyDeviceToHost, "download")
        self.stream.wait()

    def landing(self, size: int) -> CudaLanding:
        self._use_device()
        return CudaLanding(self._cuda, self.stream, size)

    def room(self) -> int:
        self._use_device()
        return int(checked(self._cuda.cudaMemGetInfo(), "tell the free memory")[0])

    def clear(self, target: int, size: int) -> None:
        checked(self._cuda.cudaMemsetAsync(target, 0, size, self.stream.handle), f"clear {size} bytes")

    def copy(self, pieces: Sequence[tuple[int, int, int]]) -> None:
        for target, source, size in pieces:
            self.stream.move(target, source, size, self._kinds.cudaMemcpyDeviceToDevice, "copy")

    def blocks(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, count: int) -> None:
        kind, handle = self._kinds.cudaMemcpyDeviceToDevice, self.stream.handle
        copied = self._cuda.cudaMemcpy2DAsync(target, target_pitch, source, source_pitch, width, count, kind, handle)
        checked(copied, f"copy {count} x {width} bytes")

    def _use_device(self) -> None:
        """Every thread has a current device of its own, the first at the beginning."""
        checked(self._cuda.cudaSetDevice(self._index), f"use device {self._index}")

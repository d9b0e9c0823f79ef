"""A CUDA runtime over the machine's own memory, with the rules of stream capture; calls are held to real signatures.

While a stream captures, work put into it is kept instead of done, and whatever CUDA forbids then is refused with
CUDA's own status: taking or giving back memory, copies that wait, waiting.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from cuda.bindings import runtime as real

STATUS = real.cudaError_t
SIGNATURE = re.compile(r"^(\w+)\((.*)\)")


def parameters(name: str) -> int:
    """How many arguments the real function takes, by the first line of its docstring."""
    found = SIGNATURE.match((getattr(real, name).__doc__ or "").splitlines()[0])
    assert found is not None, f"{name} has no signature"
    return len([p for p in found[2].split(",") if p.strip()])


class Graph:
    def __init__(self, work: list[Callable[[], None]]):
        self.work, self.alive = work, True


class FakeCuda:
    """What `cuda.runtime()` gives. `forbidden`: what was tried during a capture."""

    cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode = STATUS, real.cudaMemcpyKind, real.cudaStreamCaptureMode

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.coming: list[tuple[int, bytes]] = []
        self.going: list[tuple[int, bytes]] = []
        self.asked = 0  # downloads
        self.marks: dict[int, int] = {}  # of each event, the downloads that were asked for before
        self.capturing: list[Callable[[], None]] | None = None
        self.invalid = False
        self.forbidden: list[str] = []
        self.launched, self.graphs, self.fail_to_instantiate = 0, [], False
        self.current = threading.local()  # device of each thread
        self.taken_on: list[int] = []  # devices of allocations
        self.counts: Counter[str] = Counter()  # calls by name; copies by where from and to

    def __getattr__(self, name: str) -> Any:
        own = object.__getattribute__(self, "_" + name)  # AttributeError: not made here
        if not hasattr(real, name):
            raise AttributeError(f"cuda-python has no {name}")
        wanted = parameters(name)

        def call(*given: Any) -> tuple:
            assert len(given) == wanted, f"{name} takes {wanted} arguments, {len(given)} are given"
            kind = next((g.name for g in given if isinstance(g, real.cudaMemcpyKind)), "")
            self.counts[kind or name] += 1
            result = own(*given)
            return result if isinstance(result, tuple) else (result or STATUS.cudaSuccess,)

        return call

    def _arrive(self) -> None:
        """Bytes on their way to the device get there."""
        coming, self.coming = self.coming, []
        for target, data in coming:
            ctypes.memmove(target, data, len(data))

    def _depart(self, all_but: int = 0) -> None:
        """Bytes that the stream was to bring to the host get there, but for those asked for last."""
        self._arrive()
        until = len(self.going) - all_but
        going, self.going = self.going[:until], self.going[until:]
        for target, data in going:
            ctypes.memmove(target, data, len(data))

    def put(self, work: Callable[[], None], stream: int) -> None:
        """What a library does when it starts a kernel."""
        assert stream == 77, "capture needs a stream that is not the default one"
        self._arrive()
        self.capturing.append(work) if self.capturing is not None else work()

    def _during_capture(self, what: str) -> Any:
        if self.capturing is None:
            return None
        self.forbidden.append(what)
        self.invalid = True
        return STATUS.cudaErrorStreamCaptureUnsupported

    def _cudaGetErrorString(self, status: Any) -> tuple:
        return STATUS.cudaSuccess, status.name.encode()

    def _cudaSetDevice(self, index: int) -> None:
        self.current.index = index

    def _cudaMalloc(self, size: int) -> Any:
        if (refused := self._during_capture("cudaMalloc")) is not None:
            return refused, 0
        buffer = ctypes.create_string_buffer(size)
        self.taken_on.append(getattr(self.current, "index", 0))
        self.memory[ctypes.addressof(buffer)] = buffer
        return STATUS.cudaSuccess, ctypes.addressof(buffer)

    def _cudaFree(self, address: int) -> Any:
        if (refused := self._during_capture("cudaFree")) is not None:
            return refused
        del self.memory[address]
        return None

    def _cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int) -> Any:
        if (refused := self._during_capture("cudaMemcpyAsync")) is not None:
            return refused
        assert stream == 77
        if kind == real.cudaMemcpyKind.cudaMemcpyHostToDevice:  # staged; there for what the stream does next
            self.coming.append((target, ctypes.string_at(source, size)))
        elif kind == real.cudaMemcpyKind.cudaMemcpyDeviceToHost:
            self._arrive()
            self.going.append((target, ctypes.string_at(source, size)))
            self.asked += 1
        else:
            self._arrive()
            ctypes.memmove(target, source, size)
        return None

    def _cudaMemcpy2DAsync(
        self, target: int, to: int, source: int, of: int, width: int, count: int, kind: Any, stream: int
    ) -> Any:
        if (refused := self._during_capture("cudaMemcpy2DAsync")) is not None:
            return refused
        assert stream == 77
        self._arrive()
        for i in range(count):
            ctypes.memmove(target + i * to, source + i * of, width)
        return None

    def _cudaMemsetAsync(self, target: int, value: int, size: int, stream: int) -> Any:
        if (refused := self._during_capture("cudaMemsetAsync")) is not None:
            return refused
        assert stream == 77
        self._arrive()
        ctypes.memset(target, value, size)
        return None

    def _cudaStreamCreate(self) -> tuple:
        return STATUS.cudaSuccess, 77

    def _cudaStreamSynchronize(self, stream: int) -> Any:
        if (refused := self._during_capture("cudaStreamSynchronize")) is not None:
            return refused
        return self._depart()

    def _cudaEventCreate(self) -> tuple:
        event = len(self.marks) + 1
        self.marks[event] = 0
        return STATUS.cudaSuccess, event

    def _cudaEventRecord(self, event: int, stream: int) -> None:
        assert stream == 77
        self.marks[event] = self.asked

    def _cudaEventSynchronize(self, event: int) -> Any:
        if (refused := self._during_capture("cudaEventSynchronize")) is not None:
            return refused
        return self._depart(all_but=min(len(self.going), self.asked - self.marks[event]))

    def _cudaEventDestroy(self, event: int) -> None: ...

    def _cudaMallocHost(self, size: int) -> tuple:
        return self._cudaMalloc(size)

    def _cudaFreeHost(self, address: int) -> Any:
        return self._cudaFree(address)

    def _cudaStreamBeginCapture(self, stream: int, mode: Any) -> Any:
        if stream == 0 or self.capturing is not None:
            return STATUS.cudaErrorStreamCaptureUnsupported
        assert isinstance(mode, real.cudaStreamCaptureMode)
        self.capturing, self.invalid = [], False
        return None

    def _cudaStreamEndCapture(self, stream: int) -> tuple:
        work, self.capturing = self.capturing, None
        if work is None or self.invalid:
            return STATUS.cudaErrorStreamCaptureInvalidated, None
        return STATUS.cudaSuccess, Graph(work)

    def _cudaGraphInstantiate(self, graph: Graph, flags: int) -> tuple:
        if self.fail_to_instantiate:
            return STATUS.cudaErrorNotSupported, None
        self.graphs.append(Graph(graph.work))
        return STATUS.cudaSuccess, self.graphs[-1]

    def _cudaGraphLaunch(self, graph: Graph, stream: int) -> Any:
        if (refused := self._during_capture("cudaGraphLaunch")) is not None:
            return refused
        assert graph.alive, "a graph that was given back is played"
        self.launched += 1
        self._arrive()
        for work in graph.work:
            work()
        return None

    def _cudaGraphDestroy(self, graph: Graph) -> None: ...

    def _cudaGraphExecDestroy(self, graph: Graph) -> None:
        assert graph.alive, "a graph is given back twice"
        graph.alive = False

"""cuda-python's runtime bindings over the stand-in's libcudart, as far as the engines' CUDA memory asks for them.

The real ones are linked to a CUDA of their own. `install()` puts these in their place.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

from cuda.bindings import runtime as real

STATUS = real.cudaError_t
SIZE, POINTER = ctypes.c_size_t, ctypes.c_void_p
TAKES = {  # argument types behind those that the function writes to
    "cudaFree": (POINTER,),
    "cudaMemcpyAsync": (POINTER, POINTER, SIZE, ctypes.c_int, POINTER),
    "cudaMemsetAsync": (POINTER, ctypes.c_int, SIZE, POINTER),
    "cudaMemcpy2DAsync": (POINTER, SIZE, POINTER, SIZE, SIZE, SIZE, ctypes.c_int, POINTER),
    "cudaStreamCreate": (),
    "cudaEventCreate": (),
    "cudaEventRecord": (POINTER, POINTER),
    "cudaEventSynchronize": (POINTER,),
    "cudaEventDestroy": (POINTER,),
    "cudaMallocHost": (SIZE,),
    "cudaFreeHost": (POINTER,),
    "cudaStreamSynchronize": (POINTER,),
    "cudaSetDevice": (ctypes.c_int,),
    "cudaMalloc": (SIZE,),
    "cudaMemGetInfo": (),
    "cudaGetDeviceCount": (),
    "cudaDeviceGetAttribute": (ctypes.c_int, ctypes.c_int),
    "cudaDriverGetVersion": (),
    "cudaRuntimeGetVersion": (),
}
GIVES = {
    "cudaStreamCreate": (POINTER,),
    "cudaEventCreate": (POINTER,),
    "cudaMallocHost": (POINTER,),
    "cudaMalloc": (POINTER,),
    "cudaMemGetInfo": (SIZE, SIZE),
    "cudaGetDeviceCount": (ctypes.c_int,),
    "cudaDeviceGetAttribute": (ctypes.c_int,),
    "cudaDriverGetVersion": (ctypes.c_int,),
    "cudaRuntimeGetVersion": (ctypes.c_int,),
}


class StandinCuda:
    cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode = STATUS, real.cudaMemcpyKind, real.cudaStreamCaptureMode
    cudaDeviceAttr = real.cudaDeviceAttr

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcudart.so.13")

    def __getattr__(self, name: str) -> Any:
        takes, gives = TAKES[name], GIVES.get(name, ())
        function = getattr(self._library, name)

        def call(*given: Any) -> tuple:
            out = [kind() for kind in gives]
            said = function(
                *(ctypes.byref(one) for one in out), *(kind(int(g)) for kind, g in zip(takes, given, strict=True))
            )
            return STATUS(said), *(one.value for one in out)

        return call

    def cudaGetDeviceProperties(self, index: int) -> tuple:
        card = SimpleNamespace(name=b"stand-in of an H100", totalGlobalMem=80 << 30, major=9, minor=0)
        return STATUS.cudaSuccess, card

    def cudaGetErrorString(self, status: Any) -> tuple:
        return STATUS.cudaSuccess, status.name.encode()


def install() -> StandinCuda:
    from bagel_engines.device import cuda

    made = StandinCuda()
    cuda.runtime = lambda: made
    return made


def held() -> int:
    """Bytes that are allocated on the device that is not there."""
    return _asked("standin_held")


def most() -> int:
    """The most that were allocated at once."""
    return _asked("standin_most")


def _asked(name: str) -> int:
    function = getattr(ctypes.CDLL("libcudart.so.13"), name)
    function.restype = SIZE
    return function()

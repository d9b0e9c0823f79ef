"""Choosing an engine by name. Optional packages are imported only when their engine is chosen."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from bagel_engines.runner import Engine, EngineFailure

if TYPE_CHECKING:
    from bagel_engines.packed_weights import PackedStore
    from bagel_engines.tensorrt_engine import Plans

# fastest first: what "auto" takes
PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime"}
BACKENDS = (*PACKAGES, "tensorrt")
EXTRAS = {"openvino": "openvino", "onnxruntime": "cpu"}


def installed() -> list[str]:
    """Engines whose package is installed, fastest first."""
    return [name for name, package in PACKAGES.items() if find_spec(package) is not None]


def open_engine(
    backend: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    arithmetic: str | None = None,
    stated: str = "float32",
    weights: int = 0,
    plans: Plans | None = None,
    cuda_graphs: bool = False,
    low_memory: bool = False,
    packed: PackedStore | None = None,
) -> Engine:
    """The engine of that name, or the fastest installed for "auto".

    stated: what the graphs compute in ("float32", "bfloat16", "float16"); arithmetic None follows it, another value is
    an explicit request ("bfloat16" on openvino; "int8" on onnxruntime's CPU, which rounds what quantised weights
    multiply to 8 bits too); `info` names what is used. weights: the bytes of the artefact's weights; a device with less
    free memory is refused. plans: what tensorrt builds from, and where it keeps what it built. cuda_graphs: runs that
    callers mark as repeated are captured and played (repeats.py); `info` says where they are not. low_memory: on a CPU,
    a call's working memory is given back after it. packed: where onnxruntime on the CPU keeps packed weights.
    Raises EngineFailure for an unknown name, a missing package, or what the engine does not support.
    """
    if backend not in ("auto", *BACKENDS):
        raise EngineFailure(f"backend {backend!r} is unknown; allowed: auto, {', '.join(BACKENDS)}")
    if backend == "auto" and device != "cpu":
        backend = "onnxruntime"
    if backend == "auto":
        found = installed()
        if not found:
            raise EngineFailure("no engine is installed; run: pip install 'bagel-rt[openvino]' or 'bagel-rt[cpu]'")
        backend = found[0]
    elif backend != "tensorrt" and find_spec(PACKAGES[backend]) is None:
        raise EngineFailure(f"backend {backend!r} is not installed; run: pip install 'bagel-rt[{EXTRAS[backend]}]'")
    rounds = (backend, device, arithmetic) == ("onnxruntime", "cpu", "int8")
    if arithmetic not in (None, stated) and backend != "openvino" and not rounds:
        hint = ", or int8" if (backend, device) == ("onnxruntime", "cpu") else ""
        raise EngineFailure(
            f"{backend} computes as the artefact states, {stated}{hint}; --arithmetic {arithmetic} needs openvino"
        )
    if cuda_graphs and (backend == "openvino" or (backend == "onnxruntime" and device == "cpu")):
        raise EngineFailure(f"{backend} on {device} has no CUDA graphs; they need --device cuda or --backend tensorrt")
    if packed is not None and (backend, device) != ("onnxruntime", "cpu"):
        raise EngineFailure(f"packed weights are onnxruntime's on the CPU, not {backend}'s on {device}: leave them out")
    arithmetic = arithmetic or stated
    if backend == "tensorrt":
        from bagel_engines import tensorrt_engine

        if plans is None:
            raise EngineFailure(
                "tensorrt builds plans and must be told where to keep them: open it through bagel_rt.load"
            )
        return tensorrt_engine.on_cuda(device, arithmetic, weights, plans, cuda_graphs)
    if backend == "openvino":
        from bagel_engines.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(device, threads, arithmetic, low_memory)
    if device != "cpu":
        from bagel_engines.onnxruntime_device import on_cuda

        return on_cuda(device, threads, arithmetic, weights, cuda_graphs)
    from bagel_engines.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(device, threads, arithmetic, low_memory, packed, weights)

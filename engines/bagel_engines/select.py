"""Choosing an engine by name. Optional packages are imported only when their engine is chosen."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from bagel_engines.host_cpus import allowed_cpus
from bagel_engines.inherited import kept_in_children
from bagel_engines.protocol import Engine, EngineFailure
from bagel_engines.settings import Settings

# fastest first: what "auto" takes
PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime"}
BACKENDS = (*PACKAGES, "tensorrt")
EXTRAS = {"openvino": "openvino", "onnxruntime": "cpu"}


def installed() -> list[str]:
    """Engines whose package is installed, fastest first."""
    return [name for name, package in PACKAGES.items() if find_spec(package) is not None]


def open_engine(backend: str = "auto", device: str = "cpu", settings: Settings | None = None) -> Engine:
    """The engine of that name, or the fastest installed for "auto".

    settings.arithmetic may differ from what the graphs state: "bfloat16" on openvino, and on the CPU "int8", which also
    rounds the activations that int8 and int4 weights multiply to 8 bits in blocks. The engine's `info` names what is
    computed in, and which runs could not be recorded as CUDA graphs. settings.threads None leaves their number to the
    engine, but for a process that may not use all CPUs: those that it may use.
    Raises EngineFailure for an unknown name, a missing package, or a setting that the engine does not support.
    """
    wanted = settings or Settings()
    wanted = replace(wanted, threads=wanted.threads or allowed_cpus())
    backend = _chosen(backend, device)
    _check(backend, device, wanted)
    return kept_in_children(_opened(backend, device, wanted, wanted.arithmetic or wanted.stated))


def _chosen(backend: str, device: str) -> str:
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
    return backend


def _check(backend: str, device: str, wanted: Settings) -> None:
    arithmetic, stated = wanted.arithmetic, wanted.stated
    rounds = (backend, device) == ("onnxruntime", "cpu") and arithmetic in ("int8", "int8-rows")
    if arithmetic not in (None, stated) and backend != "openvino" and not rounds:
        hint = ", or int8 or int8-rows" if (backend, device) == ("onnxruntime", "cpu") else ""
        raise EngineFailure(
            f"{backend} computes as the artefact states, {stated}{hint}; --arithmetic {arithmetic} needs openvino"
        )
    if wanted.cuda_graphs and (backend == "openvino" or (backend == "onnxruntime" and device == "cpu")):
        raise EngineFailure(f"{backend} on {device} has no CUDA graphs; they need --device cuda or --backend tensorrt")
    if wanted.exact_vae and (backend != "onnxruntime" or device == "cpu"):
        raise EngineFailure(
            f"exact_vae is onnxruntime's on CUDA; {backend} on {device} computes as the artefact states"
        )
    if wanted.packed is not None and (backend, device) != ("onnxruntime", "cpu"):
        raise EngineFailure(f"packed weights are onnxruntime's on the CPU, not {backend}'s on {device}: leave them out")


def _opened(backend: str, device: str, wanted: Settings, arithmetic: str) -> Engine:
    if backend == "tensorrt":
        from bagel_engines.tensorrt import engine

        if wanted.plans is None:
            raise EngineFailure(
                "tensorrt builds plans and must be told where to keep them: open it through bagel_rt.load"
            )
        return engine.on_cuda(device, arithmetic, wanted.weights, wanted.plans, bool(wanted.cuda_graphs))
    if backend == "openvino":
        from bagel_engines.openvino.engine import OpenVinoEngine

        return OpenVinoEngine(device, wanted.threads, arithmetic, wanted.low_memory, wanted.arithmetic is not None)
    if device != "cpu":
        from bagel_engines.onnxruntime.device_engine import on_cuda

        record = wanted.cuda_graphs is not False
        engine = on_cuda(device, wanted.threads, arithmetic, wanted.weights, record, wanted.exact_vae)
        engine.on_weights = wanted.on_weights
        return engine
    from bagel_engines.onnxruntime.cpu_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(device, wanted.threads, arithmetic, wanted.low_memory, wanted.packed)

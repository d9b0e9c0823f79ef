"""For `bagel-rt doctor`: which engines work on this machine, and what the others lack."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np

from bagel_engines.device import cuda
from bagel_engines.device.linear_sums import SUM_GRAPHS, Sums
from bagel_engines.protocol import Engine, EngineFailure, Held
from bagel_engines.select import open_engine
from bagel_engines.settings import Settings
from bagel_engines.tensorrt import plan_builder

DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "cuda-python", "torch")
ARITHMETICS = ("float32", "bfloat16", "float16", "int8", "int8-rows")
COMBINATIONS = (("openvino", "cpu"), ("onnxruntime", "cpu"), ("onnxruntime", "cuda"))


@dataclass(frozen=True)
class Finding:
    """Whether a backend on a device can be opened: with its version, or what is missing and what to do."""

    backend: str
    device: str
    works: bool
    detail: str
    arithmetics: tuple[str, ...] = ()  # on a CPU: what `--arithmetic` takes here and what then really changes


def packages() -> dict[str, str]:
    """Versions of the installed distributions that matter here."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def backends() -> list[Finding]:
    tried = [_tried(backend, device) for backend, device in COMBINATIONS]
    return tried + [_tensorrt(flavour) for flavour in plan_builder.MODULES]


def _tensorrt(name: str) -> Finding:
    """Whether a flavour of TensorRT is installed, loads, finds a driver, and computes a small plan rightly."""

    def lacking(detail: str) -> Finding:
        return Finding(name, "cuda", False, detail)

    try:
        found = plan_builder.flavour(name)
    except EngineFailure as error:
        return lacking(str(error))
    except (ImportError, OSError) as error:  # the package is installed, its shared library is missing or does not load
        return lacking(f"{name} is installed and its library does not load: {error}; {plan_builder.INSTALL}")
    there = f"{name} {found.version} is installed and loads"
    try:
        cuda.device_count()
    except EngineFailure as error:
        across = "; it builds plans for other GPUs here (bagel-rt build --sm)" if name == "tensorrt-rtx" else ""
        return lacking(f"{there}{across} and executes none: {error}")
    try:
        right, engine = _executed(name)
    except EngineFailure as error:
        return lacking(f"{there} and does not execute a small plan: {error}")
    if not right:
        return lacking(f"{there} and computes a small plan wrongly on this GPU; install another version")
    return Finding(name, "cuda", True, f"{engine}: built and executed a small plan")


def _executed(flavour: str) -> tuple[bool, str]:
    """Whether a plan of two operators, built and run here, computes 1 + 2 * 3; and on what."""
    from bagel_engines.tensorrt.engine import Plans, on_cuda

    shape = ((1, 4), (2, 4), (4, 4))
    with tempfile.TemporaryDirectory() as folder:
        plans = Plans(Path(folder), "doctor", lambda graph: [dict.fromkeys(SUM_GRAPHS[graph], shape)])
        engine = on_cuda("cuda", "float32", 0, plans, flavour=flavour)
        return _computes(engine), str(engine.info)


def _computes(engine: Engine) -> bool:
    """Whether a graph of two operators gives 1 + 2 * 3 on an engine that has a device."""
    base, term = (engine.hold(np.full((2, 4), n, np.float32)) for n in (1, 3))
    out = cast(Held, Sums(engine).plus(base, np.float32(2), term)).numpy()
    return bool((out == 7).all())


def _tried(backend: str, device: str) -> Finding:
    try:
        engine = open_engine(backend, device)
        if device == "cpu":
            return Finding(backend, device, True, str(engine.info), arithmetics(backend))
        if not _computes(engine):
            return Finding(backend, device, False, f"{engine.info} computes a small graph wrongly on this GPU")
        return Finding(backend, device, True, f"{engine.info}: executed a small graph")
    except EngineFailure as error:
        return Finding(backend, device, False, str(error))
    except ImportError as error:  # the package is installed and broken
        return Finding(backend, device, False, f"{backend} cannot be imported: {error}; install it again")


def arithmetics(backend: str) -> tuple[str, ...]:
    """The arithmetics that an engine takes on this CPU. Engines compute a small product both ways, or look at the graph
    they made of it, before they take one by name; what it costs stands behind its name."""
    found = []
    for word in ARITHMETICS:
        try:
            info = open_engine(backend, settings=Settings(arithmetic=word)).info
        except EngineFailure:
            continue
        found.append(info.remark or info.arithmetic)  # a remark begins with the name
    return tuple(found)


def cuda_state() -> dict[str, Any]:
    """The driver and the devices, or why they cannot be told."""
    try:
        driver, runtime = cuda.versions()
        found = {"driver": f"for CUDA {cuda.dotted(driver)}" if driver else "none", "runtime": cuda.dotted(runtime)}
        found["cuDNN"] = cuda.cudnn_version() or "none found"
        return {**found, "devices": [cuda.describe(i) for i in range(cuda.device_count() if driver else 0)]}
    except EngineFailure as error:
        return {"state": str(error)}

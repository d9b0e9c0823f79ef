"""Which engines work on this machine, and what the others lack."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bagel_engines import cuda
from bagel_engines.runner import EngineFailure
from bagel_engines.select import open_engine

DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "cuda-python", "torch")
COMBINATIONS = (("openvino", "cpu"), ("onnxruntime", "cpu"), ("onnxruntime", "cuda"))


@dataclass(frozen=True)
class Finding:
    """Whether a backend on a device can be opened: with its version, or what is missing and what to do."""

    backend: str
    device: str
    works: bool
    detail: str


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
    return [_tried(backend, device) for backend, device in COMBINATIONS]


def _tried(backend: str, device: str) -> Finding:
    try:
        return Finding(backend, device, True, str(open_engine(backend, device).info))
    except EngineFailure as error:
        return Finding(backend, device, False, str(error))
    except ImportError as error:  # a package that is there and broken
        return Finding(backend, device, False, f"{backend} cannot be imported: {error}; install it again")


def cuda_state() -> dict[str, Any]:
    """The driver and the devices, or why they cannot be told."""
    try:
        driver, runtime = cuda.versions()
        found = {"driver": f"for CUDA {cuda.dotted(driver)}" if driver else "none", "runtime": cuda.dotted(runtime)}
        return {**found, "devices": [cuda.describe(i) for i in range(cuda.device_count() if driver else 0)]}
    except EngineFailure as error:
        return {"state": str(error)}

"""Why a plan was not loaded. TensorRT answers with nothing; the file, its header and the logger tell the case."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bagel_engines import disk
from bagel_engines.protocol import EngineFailure, OutOfDeviceMemory
from bagel_engines.tensorrt.plan_builder import Flavour
from bagel_engines.tensorrt.plan_store import Target

ELSEWHERE = "use --backend onnxruntime --device cuda, which needs no plans"
AGAIN = "remove it and it is built again"
# by the name of TensorRT-RTX's diagnosis of a plan's header; the first that applies is told
CAUSES = {
    "VERSION_MISMATCH": "it was built with another version than {flavour}: " + AGAIN,
    "UNSUPPORTED_CC": "{flavour} does not run it on this GPU, {gpu}, and building it again does not help: " + ELSEWHERE,
    "OLD_CUDA_DRIVER": "the driver, for CUDA {driver}, is older than it needs: install a newer one",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is older than it needs: pip install --upgrade cuda-python",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory free for it: close what else runs there, or build it with"
    " --weight-budget",
    "MALFORMED_ENGINE": "the file is damaged: " + AGAIN,
    "CUDA_ERROR": "CUDA does not work here: run bagel-rt doctor",
}
DAMAGED = "MALFORMED_ENGINE"
UNKNOWN = "the file is what was built, for {gpu}, driver {driver}; another driver may load it, or " + ELSEWHERE


@dataclass(frozen=True)
class Refused:
    """A plan that was not loaded. said: the logger's lines."""

    found: Flavour
    path: Path
    record: Mapping[str, Any]
    target: Target
    said: str

    def failure(self, runtime: Any) -> EngineFailure:
        """What to raise. runtime: a trt.Runtime, which can judge a plan by its header (TensorRT-RTX)."""
        with disk.mapping(self.path) as plan:
            cause = DAMAGED if self._damaged(plan) else _diagnosis(self.found.trt, runtime, plan)
        reason = CAUSES.get(cause or "", UNKNOWN).format(
            flavour=f"{self.found.name} {self.found.version}", gpu=self.target.gpu, driver=self.target.driver
        )
        kind = OutOfDeviceMemory if cause == "INSUFFICIENT_GPU_MEMORY" else EngineFailure
        return kind(f"{self.found.name} cannot load {self.path}: {reason}. It said: {self.said}")

    def _damaged(self, plan: Any) -> bool:
        kept = self.record.get("crc32")
        return kept is not None and zlib.crc32(plan) != kept


def _diagnosis(trt: Any, runtime: Any, plan: Any) -> str | None:
    """The cause that the plan's header shows; None where it shows none, and from TensorRT 11, which does not tell."""
    kinds = getattr(trt, "EngineInvalidityDiagnostics", None)
    if kinds is None:
        return None
    validity, diagnosis = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return None
    return next((name for name in CAUSES if int(diagnosis) & int(getattr(kinds, name))), None)

"""OpenVINO on the CPU: float32 by default, bfloat16 arithmetic when asked for by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bagel_engines.runner import Arrays, EngineFailure, EngineInfo, Runner

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoRunner:
    def __init__(self, compiled, name: str):
        self._request, self._name = compiled.create_infer_request(), name
        self.inputs = tuple(port.any_name for port in compiled.inputs)
        self.outputs = tuple(port.any_name for port in compiled.outputs)

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        try:
            # share_inputs: the page pool is read where it lies; without it every call copies the pool
            self._request.infer(dict(inputs), share_inputs=True)
            return {name: self._request.get_tensor(name).data.copy() for name in outputs}
        except Exception as error:
            raise EngineFailure(f"openvino failed in graph '{self._name}': {error}") from error


class OpenVinoEngine:
    takes_zero_rows = True

    def __init__(self, device: str = "cpu", threads: int | None = None, arithmetic: str | None = None):
        import openvino

        if device != "cpu":
            raise EngineFailure(f"openvino runs on 'cpu' here; device {device!r} is not supported")
        arithmetic = arithmetic or "float32"
        if arithmetic not in PRECISIONS:
            raise EngineFailure(f"openvino arithmetic {arithmetic!r} is unknown; allowed: {', '.join(PRECISIONS)}")
        self._core = openvino.Core()
        # the default precision on CPUs with AMX is bf16: it must be asked for, never taken silently
        self._config: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[arithmetic],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads:
            self._config["INFERENCE_NUM_THREADS"] = threads
        version = openvino.__version__.split("-")[0]
        self.info = EngineInfo("openvino", version, device, arithmetic)

    def load(self, graph: Path, prime: Arrays | None = None) -> Runner:
        try:
            compiled = self._core.compile_model(self._core.read_model(str(graph)), "CPU", self._config)
        except Exception as error:
            raise EngineFailure(f"openvino cannot load {graph}: {error}") from error
        runner = OpenVinoRunner(compiled, graph.stem)
        if prime is not None:  # 2026.4.1 computes a ViT wrongly for ever when its first call has one patch
            runner.run(prime, ())
        return runner

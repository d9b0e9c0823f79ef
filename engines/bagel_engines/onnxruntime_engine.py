"""ONNX Runtime on the CPU: the engine that parity is stated on."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np

from bagel_engines.host import HostCache
from bagel_engines.runner import Arrays, EngineFailure, EngineInfo, Runner, Tensors

ARITHMETIC = ("float32", "float16")  # float16 is computed in float32 and rounded between operators


class OnnxRuntimeRunner:
    def __init__(self, session, name: str, how):
        self._session, self._name, self._how = session, name, how
        self.inputs = tuple(i.name for i in session.get_inputs())
        self.outputs = tuple(o.name for o in session.get_outputs())

    def run(self, inputs: Tensors, outputs: Sequence[str], held: Container[str] = ()) -> dict[str, np.ndarray]:
        try:
            # numpy inputs on the CPU are wrapped, not copied: a call does not pay for the page pool's size
            return dict(zip(outputs, self._session.run(list(outputs), dict(inputs), self._how), strict=True))
        except Exception as error:  # onnxruntime raises bare exceptions of its own and of Python's
            raise EngineFailure(f"onnxruntime failed in graph '{self._name}': {error}") from error


class OnnxRuntimeEngine:
    takes_zero_rows = False  # its Attention refuses zero query rows

    def __init__(
        self,
        device: str = "cpu",
        threads: int | None = None,
        arithmetic: str = "float32",
        low_memory: bool = False,
    ):
        import onnxruntime

        if device != "cpu":
            raise EngineFailure(f"onnxruntime runs on 'cpu' here; device {device!r} is not supported")
        if arithmetic not in ARITHMETIC:
            raise EngineFailure(
                f"onnxruntime has no {arithmetic} kernels for the CPU; allowed: {', '.join(ARITHMETIC)}; use --backend"
                " openvino, or export with --precision fp32, fp16 or int8"
            )
        self._ort = onnxruntime
        self._threads = threads
        self._how = onnxruntime.RunOptions()
        if low_memory:  # after every call; costs a large one 3 % and one row nothing
            self._how.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self.info = EngineInfo("onnxruntime", onnxruntime.__version__, device, arithmetic)

    def load(self, graph: Path, prime: Arrays | None = None) -> Runner:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        options.enable_mem_pattern = False  # shapes change from call to call
        # fused int8 weights: activations stay float32 (4, the default, rounds them to 8 bits as well)
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if self._threads:
            options.intra_op_num_threads = self._threads
        try:
            session = self._ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineFailure(f"onnxruntime cannot load {graph}: {error}") from error
        return OnnxRuntimeRunner(session, graph.stem, self._how)

    def hold(self, array: np.ndarray) -> np.ndarray:
        return array

    def cache(self, halves: int, slots: int, row: tuple[int, int], dtype: np.dtype) -> HostCache:
        return HostCache(halves, slots, row, dtype)

"""ONNX Runtime on the CPU: the engine whose distance from PyTorch is measured at export and stored in the manifest."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np

from bagel_engines.host_cache import HostCache
from bagel_engines.host_memory import trim
from bagel_engines.memory_needs import onnxruntime_needs
from bagel_engines.onnxruntime.chunk_attention import SCORES, WEIGHTS_BESIDE, bounded, possible
from bagel_engines.onnxruntime.packed_weights import SAVING, PackedStore
from bagel_engines.protocol import Arrays, EngineFailure, EngineInfo, Runner, Tensors

# How matrix products with int8 and int4 weights (MatMulNBits) are computed. Accuracy level 4, onnxruntime's default,
# also rounds the activations to 8 bits in blocks: fast, but not what the graph says, so only on request (ROUNDED).
# Level 1 keeps float32 activations (EXACT); with 8-bit weights one row takes 25 times as long as with float32 weights
# (1.31.1). So the weights of small models are turned into float32 when they are loaded instead (PLAIN).
EXACT = {"session.qdq_matmulnbits_accuracy_level": "1"}
ROUNDED = {"session.qdq_matmulnbits_accuracy_level": "4"}
PLAIN = {"session.disable_quant_qdq": "1"}
PLAIN_UP_TO = 512 << 20  # bytes of weights as stored; in float32 they take four to eight times as much
ARITHMETIC = ("float32", "float16", "int8")  # float16 is computed in float32 and rounded between operators


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
    def __init__(
        self,
        device: str = "cpu",
        threads: int | None = None,
        arithmetic: str = "float32",
        low_memory: bool = False,
        packed: PackedStore | None = None,
        weights: int = 0,
    ):
        """arithmetic: a word of ARITHMETIC; "int8" also rounds the activations that int8 and int4 weights multiply.

        packed: where packed weights are kept on disk, None for nowhere. weights: bytes of the artefact's weights.
        """
        import onnxruntime

        if device != "cpu":
            raise EngineFailure(f"onnxruntime runs on 'cpu' here; device {device!r} is not supported")
        if arithmetic not in ARITHMETIC:
            raise EngineFailure(
                f"onnxruntime has no {arithmetic} kernels for the CPU; allowed: {', '.join(ARITHMETIC)}; use --backend"
                " openvino, or export with --precision fp32, fp16 or int8"
            )
        self._ort = onnxruntime
        small = weights <= PLAIN_UP_TO and packed is None
        self._settings = ROUNDED if arithmetic == "int8" else PLAIN if small else EXACT
        self._threads, self._packed, self._bounded = threads, packed, possible()
        self.takes_zero_rows = self._bounded  # its Attention kernel refuses zero queries, the loops take them
        most = SCORES if self._bounded else None
        self.needs = onnxruntime_needs(plain=self._settings is PLAIN, mapped=packed is not None, most_scores=most)
        self._how = onnxruntime.RunOptions()
        if low_memory:  # give working memory back after every call: 3 % of a large call's time, nothing of one row's
            self._how.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self.info = EngineInfo("onnxruntime", onnxruntime.__version__, device, arithmetic)

    def load(self, graph: Path, prime: Arrays | None = None) -> Runner:
        session = self._session(graph) if self._packed is None else self._packed_session(graph, self._packed)
        return OnnxRuntimeRunner(session, graph.stem, self._how)

    def _session(self, graph: Path, saved_as: Path | None = None, ready: bool = False):
        """A session of a graph file, its attention in bounded memory where that is possible.

        saved_as: also write the optimised graph and its packed weights there. ready: `graph` is such a graph already.
        """
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        options.enable_mem_pattern = False  # shapes change from call to call
        for name, value in {**self._settings, **(SAVING if saved_as else {})}.items():
            options.add_session_config_entry(name, value)
        if saved_as:
            options.optimized_model_filepath = str(saved_as)
        if self._threads:
            options.intra_op_num_threads = self._threads
        read: str | bytes = str(graph)
        if self._bounded and not ready:
            options.add_session_config_entry(WEIGHTS_BESIDE, str(graph.parent))
            read = bounded(graph)
        try:
            return self._ort.InferenceSession(read, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineFailure(f"onnxruntime cannot load {graph}: {error}") from error

    def _packed_session(self, graph: Path, store: PackedStore):
        """A session over the packed weights on disk, which are made where there are none that fit."""
        attention = {"attention": f"{SCORES} scores at once" if self._bounded else "whole"}
        key = store.key(graph, self._ort.__version__, self._settings | attention)
        if (entry := store.find(key)) is not None:
            try:
                return self._session(entry, ready=True)
            except EngineFailure:  # the entry is damaged: make it again
                store.drop(graph.stem)
        entry = store.make(key, lambda path: self._session(graph, path))
        trim()  # the session that packed the weights is gone, its memory is still in the C library's heap
        return self._session(entry, ready=True)

    def hold(self, array: np.ndarray) -> np.ndarray:
        return array

    def release(self) -> None: ...  # nothing is kept between calls

    def cache(self, halves: int, slots: int, row: tuple[int, int], dtype: np.dtype) -> HostCache:
        return HostCache(halves, slots, row, dtype)

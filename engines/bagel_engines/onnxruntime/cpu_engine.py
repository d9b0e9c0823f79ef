"""ONNX Runtime on the CPU: the engine whose distance from PyTorch is measured at export and stored in the manifest."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np

from bagel_engines.host_cache import HostCache
from bagel_engines.host_memory import trim
from bagel_engines.memory_needs import onnxruntime_needs
from bagel_engines.onnx_files import has_links, with_weights_below_root
from bagel_engines.onnxruntime.chunk_attention import SCORES
from bagel_engines.onnxruntime.packed_weights import SAVING, PackedStore
from bagel_engines.onnxruntime.prepared_graph import RECIPE, WEIGHTS_BESIDE, possible, prepared
from bagel_engines.onnxruntime.quantised_weights import HIDES_QUANTISED_WEIGHTS, PLAIN, ROUNDED
from bagel_engines.onnxruntime.recognised import recognised
from bagel_engines.protocol import Arrays, EngineFailure, EngineInfo, LowRank, Runner, Tensors

ROWS = "int8-rows"  # rows rounded to 8 bits as wholes, not in blocks
ARITHMETIC = ("float32", "float16", "int8", ROWS)  # float16 is computed in float32 and rounded between operators


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
    ):
        """arithmetic: a word of ARITHMETIC; "int8" also rounds the activations that int8 and int4 weights multiply, in
        blocks, ROWS row by row.

        packed: where packed weights are kept on disk, None for nowhere.
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
        self._rounded, self._rows = arithmetic == "int8", arithmetic == ROWS
        self._threads, self._packed, self._rewritten = threads, packed, possible()
        self.takes_zero_rows = self._rewritten  # its Attention kernel refuses zero queries, the loops take them
        most = SCORES if self._rewritten else None
        if self._rounded and self._rewritten and not recognised():
            raise EngineFailure(
                f"onnxruntime {onnxruntime.__version__} takes arithmetic 'int8' and unpacks the weights in every call"
                " all the same; use --arithmetic int8-rows, or leave it out"
            )
        if self._rows and not self._rewritten:
            raise EngineFailure(f"arithmetic {ROWS} needs the onnx package; run: pip install onnx, or use int8")
        self.needs = onnxruntime_needs(arithmetic, packed is not None, most, self._rewritten)
        self._how = onnxruntime.RunOptions()
        if low_memory:  # give working memory back after every call: 3 % of a large call's time, nothing of one row's
            self._how.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self.info = EngineInfo("onnxruntime", onnxruntime.__version__, device, arithmetic)

    def load(self, graph: Path, prime: Arrays | None = None, added: LowRank | None = None) -> Runner:
        if added is not None or self._packed is None:
            session = self._session(graph, added=added)
        else:
            session = self._packed_session(graph, self._packed)
        return OnnxRuntimeRunner(session, graph.stem, self._how)

    def _session(self, graph: Path, saved_as: Path | None = None, added: LowRank | None = None):
        """A session of a graph file, rewritten for this engine where that is possible.

        saved_as: also write the optimised graph and its packed weights there. added: see Engine.load.
        """
        if added is not None and not self._rewritten:
            raise EngineFailure("adapters of a loaded model need the onnx package; run: pip install onnx")
        read = prepared(graph, rounded=self._rounded, rows=self._rows, added=added) if self._rewritten else None
        settings, model = self._settings(read is not None and read.convolves), read.model if read else None
        beside = graph.parent
        if has_links(graph):
            model, beside = with_weights_below_root(graph, model)
        if model is None:
            return self._opened(str(graph), settings, saved_as)
        given = read.given if read else {}
        return self._opened(model, settings | {WEIGHTS_BESIDE: str(beside)}, saved_as, given)

    def _settings(self, convolves: bool) -> dict[str, str]:
        """convolves: the graph's quantised weights are those of convolutions, which are computed in float32 anyway."""
        return ROUNDED if self._rounded and not convolves else PLAIN

    def _opened(
        self,
        graph: str | bytes,
        settings: Mapping[str, str],
        saved_as: Path | None = None,
        given: Mapping[str, np.ndarray] | None = None,
    ):
        """given: weights that lie in no file, by name."""
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        options.enable_mem_pattern = False  # shapes change from call to call
        for name, value in {**settings, **(SAVING if saved_as else {})}.items():
            options.add_session_config_entry(name, value)
        if saved_as:
            options.optimized_model_filepath = str(saved_as)
        if self._threads:
            options.intra_op_num_threads = self._threads
        if given:
            values = [self._ort.OrtValue.ortvalue_from_numpy(array) for array in given.values()]
            options.add_external_initializers(list(given), values)
        left_out = HIDES_QUANTISED_WEIGHTS if self._rounded else []
        try:
            return self._ort.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=left_out
            )
        except Exception as error:
            told = "a rewritten graph" if isinstance(graph, bytes) else graph
            raise EngineFailure(f"onnxruntime cannot load {told}: {error}") from error

    def _packed_session(self, graph: Path, store: PackedStore):
        """A session over the packed weights on disk, which are made where there are none that fit."""
        key = store.key(graph, self._ort.__version__, self._made_with())

        def read(entry: Path):
            trim()  # a session that packed the weights is gone, its memory is still in the C library's heap
            return self._opened(str(entry), {})

        return store.opened(key, read, lambda path: self._session(graph, path))

    def _made_with(self) -> dict[str, str]:
        """What decides, beside graph, weights and CPU, what is stored of a graph."""
        attention = f"{SCORES} scores at once" if self._rewritten else "whole"
        rows = "rounded" if self._rows else "as they are"
        return self._settings(False) | {"attention": attention, "rewriting": RECIPE, "rows": rows}

    def hold(self, array: np.ndarray) -> np.ndarray:
        return array

    def release(self) -> None: ...  # nothing is kept between calls

    def cache(self, halves: int, slots: int, row: tuple[int, int], dtype: np.dtype) -> HostCache:
        return HostCache(halves, slots, row, dtype)

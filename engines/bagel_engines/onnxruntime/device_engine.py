"""ONNX Runtime on CUDA: inputs, results and the key-value cache stay on the device until the host asks for them.

The device is reached through a `Memory` (device/arrays.py), so tests run the same code over the machine's own memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from bagel_engines.device import cuda
from bagel_engines.device.arrays import DeviceArray, DeviceCache, HostMemory, Landing, Memory, downloaded, on_device
from bagel_engines.device.one_thread import OneThread
from bagel_engines.device.recorded_runs import Recording, Repeats, Shapes
from bagel_engines.onnx_files import has_links, readable, with_weights_below_root
from bagel_engines.onnxruntime.cuda_form import (
    STEPS,
    CudaForm,
    Fused,
    kinds_beside,
    made_values,
    masks_of,
    sources_of,
    with_fused_attention,
    with_fused_rows,
    with_fused_vae,
    with_kernels,
)
from bagel_engines.onnxruntime.graph_lengths import TOLD, GraphLengths, Told
from bagel_engines.onnxruntime.masked_runner import MANY, MANY_DRAW, OTHER, MaskedRunner, kinds_of
from bagel_engines.onnxruntime.pool_half import with_half_as_input
from bagel_engines.onnxruntime.prepared_graph import WEIGHTS_BESIDE
from bagel_engines.onnxruntime.quantised_weights import HIDES_QUANTISED_WEIGHTS
from bagel_engines.onnxruntime.shared_weights import NOT_IN_PLACE, SharedWeights
from bagel_engines.onnxruntime.vae_form import VAES
from bagel_engines.onnxruntime.widened_resize import with_wide_resize
from bagel_engines.protocol import (
    Arrays,
    EngineFailure,
    EngineInfo,
    LowRank,
    OnWeights,
    OutOfDeviceMemory,
    Runner,
    Tensor,
    Tensors,
    refuse_added,
)

ONNX_TYPES = {
    "tensor(float)": 1,
    "tensor(int32)": 6,
    "tensor(int64)": 7,
    "tensor(bool)": 9,
    "tensor(float16)": 10,
    "tensor(bfloat16)": 16,
}
NUMPY_TYPES = {1: np.float32, 7: np.int64, 9: np.bool_, 10: np.float16, 16: np.uint16}  # bfloat16 as its bits
NAMELESS = (16, 17)  # types that numpy has no name for: bfloat16, float8e4m3fn
NOT_CAPTURED = (MANY, MANY_DRAW)  # kinds of calls with a product that takes memory and waits (GemmFloat8)
PLAINLY = -1  # gpu_graph_id of a run that is neither captured nor replayed, as onnxruntime defines it
FLOAT8_SINCE = (8, 9)  # compute capability of the first cards that multiply in it
ROOMY = 16  # times its size that must be free before something is held that calls can do without
BRIEF = (*VAES, "vit")  # graphs that a picture needs once or twice
# run options of onnxruntime
SHRINKS, DOES_NOT_WAIT = "memory.enable_memory_arena_shrinkage", "disable_synchronize_execution_providers"
NO_MEMORY = re.compile(r"out of memory|failed to allocate|CUDA failure 2\b|available memory of", re.IGNORECASE)


class OrtHeld:
    """A protocol.Held: a result in ONNX Runtime's own memory on the device."""

    def __init__(self, value: Any, memory: Memory):
        self._value, self.memory = value, memory
        self.shape, self.address = tuple(value.shape()), value.data_ptr()
        self.dtype = np.dtype(NUMPY_TYPES[value.element_type()])

    def numpy(self) -> np.ndarray:
        return downloaded([self])[0]


class Capture:
    """Captures runs of one session as CUDA graphs. refusal: why its runs cannot be captured, or None."""

    def __init__(self, options: Callable[[], Any], repeats: Repeats, refusal: str | None, thread: OneThread):
        """options: makes run options. thread: for runs that capture or replay."""
        self.repeats, self.refusal, self.thread = repeats, refusal, thread
        self._options, self._numbers = options, count(1)
        self.holds_any = False  # whether something is captured in the session's arena

    def next_number(self) -> int:
        self.holds_any = True
        return next(self._numbers)

    def options(self, number: int) -> Any:
        """Run options: capture the run under this number, or replay what was captured under it."""
        options = self._options()
        options.add_run_config_entry("gpu_graph_id", str(number))
        return options


class DeviceRunner:
    def __init__(
        self,
        session: Any,
        name: str,
        place: tuple[str, int],
        memory: Memory,
        capture: Capture | None = None,
        weights: Mapping[str, DeviceArray] | None = None,
        halves: int = 0,
        plain: Any = None,
    ):
        """weights: those the session shares with other sessions; kept here because it reads them in place. halves: as
        in CudaForm. plain: options of a run that is neither captured nor replayed, as all of BRIEF's are."""
        self._plain, self._brief = plain, name in BRIEF
        self._session, self._name, self._place, self._memory = session, name, place, memory
        self._capture, self._weights = capture, weights
        self._types = {v.name: ONNX_TYPES[v.type] for v in (*session.get_inputs(), *session.get_outputs())}
        named = tuple(i.name for i in session.get_inputs())
        self.inputs = tuple(name for name in named if name not in TOLD)
        self.outputs = tuple(o.name for o in session.get_outputs())
        halves = next((o.shape[0] for o in session.get_outputs() if o.name == "new_kv"), halves)
        self._lengths = GraphLengths(memory, named, halves)

    def run(self, inputs: Tensors, outputs: Sequence[str], held: Container[str] = ()) -> dict[str, Any]:
        with self._failures():
            given = {name: self._given(tensor) for name, tensor in inputs.items()}  # kept until the run is over
            results = self._results(given, tuple(outputs))
            return {name: results[name] if name in held else results[name].numpy() for name in outputs}

    def _results(self, given: Mapping[str, Any], outputs: tuple[str, ...]) -> Mapping[str, Any]:
        capture = self._capture
        if capture is None or self._brief or not capture.repeats.active(self._name):
            return self._plainly(given, outputs)
        return capture.repeats.run(
            self._name,
            outputs,
            given,
            lambda: self._plainly(given, outputs),
            lambda moving, shapes: self._recorded({**given, **moving}, moving, shapes),
        )

    def _plainly(self, given: Mapping[str, Any], outputs: Sequence[str]) -> Mapping[str, Any]:
        results = self._computed(given, outputs, self._plain)
        return self._out_of_arena(results) if self._capture and self._capture.holds_any else results

    def _computed(self, given: Mapping[str, Any], outputs: Sequence[str], options: Any = None) -> dict[str, OrtHeld]:
        binding = self._bound(given, self._lengths.of(given))
        for name in outputs:
            binding.bind_output(name, *self._place)
        self._session.run_with_iobinding(binding, options)
        values = zip(outputs, binding.get_outputs(), strict=True)
        return {name: OrtHeld(value, self._memory) for name, value in values}

    def _recorded(self, given: Mapping[str, Any], moving: Mapping[str, DeviceArray], shapes: Shapes) -> Recording:
        """Capture a run on these arrays; onnxruntime replays it whenever it is run with the same number again."""
        capture = self._capture
        assert capture is not None
        if capture.refusal is not None:
            raise EngineFailure(capture.refusal)
        results = {name: DeviceArray(self._memory, shape, dtype) for name, (shape, dtype) in shapes.items()}
        told = self._lengths.of(given)  # kept by `play`, which is run on their addresses
        binding, number = self._bound(given, told), capture.next_number()
        for name, array in results.items():
            binding.bind_output(name, *self._place, self._types[name], list(array.shape), array.address)
        options = capture.options(number)

        def play() -> None:
            with self._failures():
                assert told is not None
                capture.thread(lambda: self._session.run_with_iobinding(binding, options))

        def drop() -> None:
            if hasattr(self._session, "release_captured_graph"):  # since onnxruntime 1.31; else kept until the end
                capture.thread(lambda: self._session.release_captured_graph(number))

        play()  # onnxruntime makes its warm-up runs and captures within this first call
        return Recording(moving, results, play, drop)

    def _bound(self, given: Mapping[str, Any], told: Told) -> Any:
        binding = self._session.io_binding()
        for name, tensor in told.items():
            if isinstance(tensor, np.ndarray):
                binding.bind_cpu_input(name, tensor)
        given = {**given, **{name: tensor for name, tensor in told.items() if not isinstance(tensor, np.ndarray)}}
        for name, tensor in given.items():
            binding.bind_input(name, *self._place, self._types[name], list(tensor.shape), tensor.address)
        return binding

    def _out_of_arena(self, results: Mapping[str, OrtHeld]) -> dict[str, DeviceArray]:
        """Copies in memory of ours. onnxruntime's arena counts the memory of captured runs as free, so a result that
        stayed there would be written over when a captured run is replayed."""
        copies = {name: DeviceArray(self._memory, held.shape, held.dtype) for name, held in results.items()}
        self._memory.copy([(c.address, results[n].address, c.nbytes) for n, c in copies.items() if c.nbytes])
        return copies

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except EngineFailure:
            raise
        except Exception as error:  # onnxruntime raises bare exceptions of its own and of Python's
            raise failure(f"onnxruntime failed in graph '{self._name}' on {self._place[0]}: {error}") from error

    def _given(self, tensor: Any) -> DeviceArray | OrtHeld:
        return on_device(self._memory, tensor) if isinstance(tensor, np.ndarray) else tensor


def failure(text: str) -> EngineFailure:
    return (OutOfDeviceMemory if NO_MEMORY.search(text) else EngineFailure)(text)


class OnnxRuntimeDeviceEngine:
    takes_zero_rows = False
    needs = None

    def __init__(
        self,
        ort: Any,
        info: EngineInfo,
        memory: Memory,
        providers: list,
        threads: int | None = None,
        record: bool = False,
        settings: Mapping[str, str] | None = None,
        fused: Fused | None = None,
        joins: bool = False,
        vae: Callable[[Path], CudaForm | None] = lambda graph: None,
        float8: bool = False,
    ):
        """record: capture runs inside `repeating` as CUDA graphs. settings: session config entries, by onnxruntime's
        names. fused: makes the form of a step graph with fused attention, None where the device has none; joins:
        the device has kernels for products with quantised weights, and norms and activations of step graphs are joined
        with what is beside them; vae: makes the form of a VAE's graph (cuda_form.py). float8: the device multiplies in
        8-bit floating point."""
        self.info, self._ort, self._memory, self._providers, self._threads = info, ort, memory, providers, threads
        name, _, index = info.device.partition(":")
        self._place = (name, int(index or 0))
        self._settings = dict(settings or {})
        self._fused, self._joins, self._vae, self._float8 = fused, joins, vae, float8
        self._held_masks: WeakKeyDictionary[Any, tuple[str, ...]] = WeakKeyDictionary()
        # for EngineInfo.remark, by subject
        self._remarks: dict[str, str] = {"opened": info.remark} if info.remark else {}
        self._repeats = Repeats(memory, lambda words: self._tell("graphs", words)) if record else None
        self._thread = OneThread("bagel-rt-graphs")
        self.on_weights: OnWeights | None = None  # told of weights on their way to the device
        self._shared: SharedWeights | None = None
        self._share_weights()

    def repeating(self) -> AbstractContextManager[None]:
        """Runs inside may be captured as CUDA graphs and replayed when they come again (device/recorded_runs.py)."""
        return nullcontext() if self._repeats is None else self._repeats.marked()

    @property
    def shared_bytes(self) -> int:
        """Bytes of the weights on the device that several sessions read in place."""
        return 0 if self._shared is None else self._shared.bytes_held

    def _share_weights(self) -> None:
        """Find out whether sessions can read one copy of the weights; if not, `info` says why each has its own."""
        shared = SharedWeights(self._ort, self._memory, self._place, self._providers)
        try:
            refusal = shared.refusal()
        except Exception as error:  # onnxruntime raises bare exceptions of its own and of Python's
            refusal = f"{NOT_IN_PLACE} ({error})"
        if refusal is None:
            self._shared = shared
        else:
            self._tell("weights", refusal)

    def _tell(self, about: str, words: str) -> None:
        self._remarks[about] = words
        self.info = replace(self.info, remark="; ".join(self._remarks.values()))

    def load(self, graph: Path, prime: Arrays | None = None, added: LowRank | None = None) -> Runner:
        refuse_added(added, f"onnxruntime on {self.info.device}")
        masks = masks_of(graph) if self._fused is not None and graph.stem in STEPS and readable() else ()
        if not masks:
            return self._runner(graph, OTHER)
        if self._shared is not None:  # or each session would have a copy of the weights
            masks = (*masks, *kinds_beside(graph, self._float8))
        return MaskedRunner(masks[0], masks, lambda kind: self._runner(graph, kind), self._kinds_of)

    def _kinds_of(self, mask: Tensor) -> tuple[str, ...]:
        if isinstance(mask, np.ndarray):
            return kinds_of(mask)
        return self._held_masks.get(mask, (OTHER,))

    def _runner(self, graph: Path, kind: str) -> DeviceRunner:
        """kind: of the masks it is for."""
        form = self._form(graph, kind)
        halves = form.halves if form else 0
        if self._repeats is None or kind in NOT_CAPTURED:
            session, weights = self._session(graph, form, self._providers)
            plain = self._plain_run(graph.stem)
            return DeviceRunner(session, graph.stem, self._place, self._memory, None, weights, halves, plain)
        refusal = None
        try:
            session, weights = self._session(graph, form, [with_graphs(provider) for provider in self._providers])
        except OutOfDeviceMemory:
            raise
        except EngineFailure as error:  # such as nodes that only the CPU can compute
            (session, weights), refusal = self._session(graph, form, self._providers), str(error)
        capture = Capture(lambda: self._run_options(graph.stem), self._repeats, refusal, self._thread)
        plain = self._plain_run(graph.stem, capture)
        return DeviceRunner(session, graph.stem, self._place, self._memory, capture, weights, halves, plain)

    def _plain_run(self, graph: str, capture: Capture | None = None) -> Any:
        """Options of a run that is neither captured nor replayed."""
        return capture.options(PLAINLY) if capture else self._run_options(graph)

    def _run_options(self, graph: str) -> Any:
        """On CUDA every session works in the memory's stream, so a run need not be over when the next one is asked for.

        Graphs that a picture needs once or twice give back what they computed in, when they have: each session has an
        arena of its own, and together they would hold gigabytes that no other graph can use.
        """
        options, (name, index) = self._ort.RunOptions(), self._place
        if name == "cuda":
            entry = (SHRINKS, f"gpu:{index}") if graph in BRIEF else (DOES_NOT_WAIT, "1")
            options.add_run_config_entry(*entry)
        return options

    def _session(self, graph: Path, form: CudaForm | None, providers: list) -> tuple[Any, Mapping[str, DeviceArray]]:
        """A session, and those of its weights that it shares with other sessions."""
        if self._shared is None or not graph.is_file():
            return self._opened(graph, form, self._options(), providers), {}
        options = self._options()
        lent = sources_of(graph, form)
        told = self.on_weights
        on_bytes = None if told is None else lambda done, total: told(graph.stem, done, total)
        weights, values = self._shared.lend(options, lent, on_bytes)
        try:
            session = self._opened(graph, form, options, providers, lent)
        except OutOfDeviceMemory:
            raise
        except EngineFailure as error:
            # raises where sharing was not the reason
            session = self._opened(graph, form, self._options(), providers)
            self._tell("weights", f"'{graph.stem}' has its own copy of its weights: {error}")
            return session, {}
        del values  # the session has taken them over
        return session, weights

    def _options(self) -> Any:
        options = options_of_device(self._ort)
        for name, value in self._settings.items():
            options.add_session_config_entry(name, value)
        if self._threads:
            options.intra_op_num_threads = self._threads
        return options

    def _opened(
        self, graph: Path, form: CudaForm | None, options: Any, providers: list, lent: Container[str] = ()
    ) -> Any:
        """lent: names of weights that the options have already."""
        read: str | bytes = str(graph)
        model, beside = form.model if form else None, graph.parent
        if has_links(graph):
            model, beside = with_weights_below_root(graph, model)
        if model is not None:
            read = model
            options.add_session_config_entry(WEIGHTS_BESIDE, str(beside))
        made = made_values(graph, form, lent) if form else {}
        values = [ort_value(self._ort, array, kind) for array, kind in made.values()]
        if made:
            options.add_external_initializers(list(made), values)
        self._memory.stream.wait()  # for lent weights, which a session may look at while it is made
        try:
            return opened_on_device(self._ort, read, options, providers)
        except Exception as error:
            raise failure(f"onnxruntime cannot load {graph} on {self.info.device}: {error}") from error

    def _form(self, graph: Path, kind: str) -> CudaForm | None:
        """The graph as this device can load it or computes it fastest, where the file is not that."""
        if not (graph.is_file() and readable()):
            return None
        if self._fused is not None and graph.stem in STEPS and (form := self._fused(graph, kind)) is not None:
            return form
        if graph.stem in VAES and (form := self._vae(graph)) is not None:
            return form
        recorded = self._repeats is not None
        if self._joins and graph.stem in STEPS:
            return with_fused_rows(graph, recorded)
        if self._joins and (form := with_kernels(graph)) is not None:
            return form
        model = with_half_as_input(graph) if recorded else None
        if model is None and self.info.arithmetic == "bfloat16":
            model = with_wide_resize(graph)
        return CudaForm(model) if model else None

    def hold(self, array: np.ndarray) -> DeviceArray:
        held = on_device(self._memory, array)
        if array.dtype == np.bool_ and array.ndim == 2:  # a mask: its values are asked for when it is used
            self._held_masks[held] = kinds_of(array)
        return held

    def hold_where_roomy(self, array: np.ndarray) -> DeviceArray | None:
        """See token_chain.ReadsBehind."""
        return self.hold(array) if self._memory.room() >= ROOMY * array.nbytes else None

    def landing(self, size: int) -> Landing:
        return self._memory.landing(size)

    def release(self) -> None:
        if self._repeats is not None:
            self._repeats.close()
        self._thread.close()
        self._memory.trim()

    def cache(self, halves: int, slots: int, row: tuple[int, int], dtype: np.dtype) -> DeviceCache:
        return DeviceCache(self._memory, halves, slots, row, dtype)


def options_of_device(ort: Any) -> Any:
    """Session options that every session on a device has."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # shapes change from call to call
    return options


def opened_on_device(ort: Any, graph: str | bytes, options: Any, providers: list) -> Any:
    """A session that keeps products with quantised weights where onnxruntime recognises them."""
    session = ort.InferenceSession(graph, options, providers=providers, disabled_optimizers=HIDES_QUANTISED_WEIGHTS)
    session.disable_fallback()  # an error on the device is raised, instead of computing on the CPU without a word
    return session


def ort_value(ort: Any, array: np.ndarray, kind: int) -> Any:
    """A value on the host. kind: ONNX's number of its type; where numpy has no name for it, the array has its bits."""
    make = ort.OrtValue
    bits = kind in NAMELESS
    return make.ortvalue_from_numpy_with_onnx_type(array, kind) if bits else make.ortvalue_from_numpy(array)


def with_graphs(provider: Any) -> Any:
    """An execution provider as onnxruntime takes it; the CUDA one with CUDA graphs enabled."""
    if isinstance(provider, str):
        return provider
    name, options = provider
    return name, {**options, "enable_cuda_graph": "1"}


def on_cuda(
    device: str,
    threads: int | None,
    arithmetic: str,
    weights: int,
    record: bool = False,
    exact_vae: bool = False,
) -> OnnxRuntimeDeviceEngine:
    """The engine on "cuda" or "cuda:N"; `weights` bytes must be free there. Raises EngineFailure before any is read.

    record: runs inside `repeating` become CUDA graphs. exact_vae: the VAE is computed in float32 whatever `arithmetic`.
    """
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise EngineFailure(
            f"onnxruntime {onnxruntime.__version__} is installed without CUDA; run: pip uninstall onnxruntime,"
            f" then {cuda.INSTALL}"
        )
    index = cuda.device_index(device)
    cuda.check_room(index, weights)
    onnxruntime.preload_dlls()  # CUDA's libraries from their wheels, where nothing else has loaded them
    onnxruntime.set_default_logger_severity(3)  # each session would warn that CUDA is not a plugin
    memory = cuda.CudaMemory(index)
    options = {
        "device_id": str(index),
        "user_compute_stream": str(memory.stream.handle),  # one for all sessions and copies keeps them in order
        "use_tf32": "0",  # float32 means float32
        "arena_extend_strategy": "kSameAsRequested",
    }
    info = EngineInfo("onnxruntime", onnxruntime.__version__, f"cuda:{index}", arithmetic)
    providers = [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    if cuda.cudnn_version() is None:
        info = replace(info, remark=cuda.NO_CUDNN)
    fused = None if arithmetic == "float32" else with_fused_attention  # it has no float32 kernel
    half = arithmetic != "float32" and not exact_vae
    return OnnxRuntimeDeviceEngine(
        onnxruntime,
        info,
        memory,
        providers,
        threads,
        record,
        fused=fused,
        joins=True,
        vae=lambda graph: with_fused_vae(graph, half),
        float8=cuda.capability(index) >= FLOAT8_SINCE,
    )


def on_host(
    record: bool = False, settings: Mapping[str, str] | None = None, fused: Fused | None = None
) -> OnnxRuntimeDeviceEngine:
    """The same engine with the machine's own memory as its device: runs all of this code but CUDA's, for tests."""
    import onnxruntime

    info = EngineInfo("onnxruntime", onnxruntime.__version__, "cpu", "float32")
    return OnnxRuntimeDeviceEngine(
        onnxruntime, info, HostMemory(), ["CPUExecutionProvider"], record=record, settings=settings, fused=fused
    )

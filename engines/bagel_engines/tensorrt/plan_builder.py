"""Building TensorRT plans from ONNX files, with either flavour of the common API: TensorRT 11 or TensorRT-RTX."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines import disk
from bagel_engines.onnx_files import mapped, places, readable
from bagel_engines.protocol import EngineFailure
from bagel_engines.tensorrt.log import collected

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # smallest, usual and largest shape
Profile = Mapping[str, Range]
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # flavour and the module it is imported from
FIRST_WITH_FP8 = 89  # SM89, Ada
NO_FP8 = "GPUs before SM89 have no 8-bit floats: export with --precision w8a8, or build for a newer architecture"
CURRENT = "CURRENT"  # TensorRT-RTX's name for the GPU at hand
RECIPE = 5  # part of every plan's key: raise it when a change here makes other plans of the same settings
INSTALL = "pip install 'bagel-rt[tensorrt]' (data-centre GPUs) or 'bagel-rt[tensorrt-rtx]' (GeForce, RTX PRO)"


@dataclass(frozen=True)
class Flavour:
    """TensorRT or TensorRT-RTX, as installed."""

    name: str
    trt: Any  # the module; its bindings have no types

    @property
    def version(self) -> str:
        return str(self.trt.__version__)


def flavour(name: str | None = None) -> Flavour:
    """The flavour of that name, or the one that is installed, TensorRT before TensorRT-RTX. Raises EngineFailure."""
    for known, module in MODULES.items():
        if name in (None, known) and find_spec(module) is not None:
            return Flavour(known, importlib.import_module(module))
    raise EngineFailure(f"{name or 'TensorRT'} is not installed; run: {INSTALL}")


@dataclass(frozen=True)
class BuildSettings:
    """What a plan is built for. architecture: such as "SM120", to build for any GPU of it (TensorRT-RTX only); None is
    this machine's GPU. here: that GPU's own architecture, where it is known."""

    profiles: Sequence[Profile]
    architecture: str | None = None
    weight_streaming: bool = False
    here: str | None = None


OnStep = Callable[[str, int, int], None]  # phase, steps done, steps in all


def build(
    found: Flavour,
    graph: Path,
    settings: BuildSettings,
    timing_cache: Path | None = None,
    on_step: OnStep | None = None,
) -> Any:
    """The serialized plan of a graph (an IHostMemory, a buffer). Strongly typed: the graph states every precision.

    The parser is given addresses in the memory-mapped weight files, so the only copy of the weights is the builder's
    own. Raises EngineFailure in the parser's or the builder's own words.
    """
    trt, log = found.trt, collected(found.trt)
    builder = trt.Builder(log)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    config = builder.create_builder_config()
    parser = trt.OnnxParser(network, log)
    with _weights_of(graph) as weights:
        if not _parse(parser, graph, weights):
            errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
            raise EngineFailure(f"{found.name} cannot parse {graph}: {'; '.join(errors) or log.first}")
        _allow_decomposed_attention(trt, network)
        _refuse_eight_bit_floats(trt, network, graph, settings.architecture or settings.here)
        _configure(found, builder, config, settings, graph)
        cache = _attach_timing_cache(config, timing_cache if found.name == "tensorrt" else None)  # RTX keeps none
        if on_step is not None:
            config.progress_monitor = _monitor(trt, on_step)
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = log.first
        hint = f"; {NO_FP8}" if "fp8" in reason else ""
        raise EngineFailure(f"{found.name} {found.version} cannot build {graph}: {reason}{hint}")
    if cache is not None and timing_cache is not None:
        disk.write_whole(timing_cache, bytes(memoryview(cache.serialize())))
    return plan


def _parse(parser: Any, graph: Path, weights: Mapping[str, np.ndarray]) -> bool:
    if not weights:
        return parser.parse_from_file(str(graph))
    if not parser.load_model_proto(graph.read_bytes(), str(graph)):
        return False
    return all(
        parser.load_initializer(name, values.ctypes.data, values.nbytes) for name, values in weights.items()
    ) and bool(parser.parse_model_proto())


def _allow_decomposed_attention(trt: Any, network: Any) -> None:
    """Allow attention to be built of several layers where there is no fused kernel (float32; heads 8 wide).

    The parser (TensorRT-RTX 1.7.1) asks for a fused kernel only, and the builder refuses a graph that has none.
    """
    for layer in _layers(network):
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # how the Python bindings cast a layer to its class
            layer.attention.decomposable = True


def _refuse_eight_bit_floats(trt: Any, network: Any, graph: Path, target: str | None) -> None:
    """Where the target has none, or is not known: a builder without a target makes a plan that fails when loaded."""
    if not any(_makes(layer, trt.DataType.FP8) for layer in _layers(network)):
        return
    if target is None:
        raise EngineFailure(f"{graph} has 8-bit floats, so its GPU must be known: name one, --sm SM89 or newer")
    if target.startswith("SM") and int(target[2:]) < FIRST_WITH_FP8:
        raise EngineFailure(f"{graph} has 8-bit floats, and the target is {target}: {NO_FP8}")


def _makes(layer: Any, dtype: Any) -> bool:
    return any(layer.get_output(i).dtype == dtype for i in range(layer.num_outputs))


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(i) for i in range(network.num_layers))


def check_architecture(found: Flavour, architecture: str | None) -> None:
    """Raises EngineFailure for a name that this TensorRT does not build for; None is the GPU at hand."""
    known = getattr(found.trt, "ComputeCapability", None)
    if architecture is None or hasattr(known, architecture):
        return
    names = [n for n in dir(known) if n.startswith("SM")] if known is not None else []
    allowed = ", ".join(names) or "none: TensorRT 11 builds for the GPU at hand"
    raise EngineFailure(f"architecture {architecture!r} cannot be built for; allowed: {allowed}")


def _set_target(found: Flavour, config: Any, architecture: str | None) -> None:
    """TensorRT-RTX told nothing builds for all it knows, and best for none; TensorRT 11 knows the GPU at hand only."""
    check_architecture(found, architecture)
    if (known := getattr(found.trt, "ComputeCapability", None)) is None:
        return
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(getattr(known, architecture or CURRENT), 0):
        told = f"architecture {architecture!r}" if architecture else "the GPU of this machine"
        raise EngineFailure(f"TensorRT-RTX does not build for {told}: name another, such as --sm SM120")


def _configure(found: Flavour, builder: Any, config: Any, settings: BuildSettings, graph: Path) -> None:
    trt = found.trt
    _set_target(found, config, settings.architecture)
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default; float32 means float32
    if (capturable := getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)) is not None:
        config.set_flag(capturable)  # TensorRT-RTX: no memory of its own while it runs, as CUDA graphs need it
    if settings.weight_streaming:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    for profile in settings.profiles:
        optimisation = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in profile.items():
            optimisation.set_shape(name, smallest, usual, largest)
        if config.add_optimization_profile(optimisation) < 0:
            raise EngineFailure(f"TensorRT refuses a profile of {graph.stem}: {dict(profile)}")


def _attach_timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


@contextmanager
def _weights_of(graph: Path) -> Iterator[dict[str, np.ndarray]]:
    """Each external initializer's bytes in the mapped weight file.

    Empty without the onnx package, which is needed to find them: then the parser reads the files into a copy of its
    own.
    """
    if not readable():
        yield {}
        return
    files: dict[Path, np.ndarray] = {}
    weights = {}
    for name, place in places(graph).items():
        if place.file not in files:
            files[place.file] = mapped(place.file)
        weights[name] = place.bytes_in(files[place.file])
    yield weights


def _monitor(trt: Any, on_step: OnStep) -> Any:
    """TensorRT's progress as calls of on_step; phases nest, each with its own number of steps."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.totals: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.totals[phase_name] = num_steps
            on_step(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            on_step(phase_name, step + 1, self.totals.get(phase_name, step + 1))
            return True

        def phase_finish(self, phase_name: str) -> None:
            total = self.totals.pop(phase_name, 0)
            on_step(phase_name, total, total)

    return Monitor()

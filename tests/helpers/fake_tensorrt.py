"""A TensorRT whose plans are computed by OpenVINO on the machine's own memory.

What the backend does around an engine (plans, profiles, shapes, addresses, scratch memory) is real here; what TensorRT
itself does is not there at all.
"""

from __future__ import annotations

import ctypes
import json
from collections import Counter
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openvino

OWN = SimpleNamespace(
    TensorIOMode=Enum("TensorIOMode", "INPUT OUTPUT"),
    DataType=Enum("DataType", "FLOAT HALF BF16 INT64 INT32 BOOL FP8"),
    LayerType=Enum("LayerType", "CONSTANT ATTENTION_INPUT"),
    BuilderFlag=Enum("BuilderFlag", "WEIGHT_STREAMING TF32"),
    NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=0),
    ExecutionContextAllocationStrategy=Enum("ExecutionContextAllocationStrategy", "USER_MANAGED"),
)
KINDS = {"f32": "FLOAT", "f16": "HALF", "bf16": "BF16", "i64": "INT64", "boolean": "BOOL"}
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "BF16": np.uint16, "INT64": np.int64, "BOOL": np.bool_}


def at(address: int, shape: tuple[int, ...], dtype) -> np.ndarray:
    """The bytes at an address as an array, without a copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


class Context:
    told: Counter = Counter()  # calls by name

    def __init__(self, engine: Engine, strategy=None):
        self.engine, self.active_optimization_profile, self.strategy = engine, 0, strategy
        self.shapes, self.addresses, self.scratch, self.profiles_used = {}, {}, 0, []

    def set_optimization_profile_async(self, profile, stream):
        Context.told["set_optimization_profile_async"] += 1
        self.active_optimization_profile = profile
        return True

    def set_input_shape(self, name, shape):
        Context.told["set_input_shape"] += 1
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name, address):
        Context.told["set_tensor_address"] += 1
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name):
        Context.told["get_tensor_shape"] += 1
        values = {}
        for given in self.engine.inputs:
            for dim, size in zip(self.engine.symbols[given], self.shapes[given], strict=True):
                values.setdefault(dim, size)
        return tuple(evaluated(dim, values) for dim in self.engine.symbols[name])

    def is_stream_capturable(self, stream):
        return True

    def set_device_memory(self, address, size):
        Context.told["set_device_memory"] += 1
        self.scratch = size

    def execute_async_v3(self, stream):
        Context.told["execute_async_v3"] += 1
        assert self.scratch >= self.engine.device_memory_size_v2
        Runtime.strategies.append(self.strategy)
        self.engine.log.append((self.engine.name, self.active_optimization_profile))
        shapes, addresses = dict(self.shapes), dict(self.addresses)  # a captured run keeps those of its capture
        Runtime.put(lambda: self.compute(shapes, addresses), stream)
        return True

    def compute(self, shapes, addresses):
        self.profiles_used.append(self.active_optimization_profile)
        inputs = {i: self.tensor(addresses[n], n, shapes[n]) for i, n in enumerate(self.engine.inputs)}
        self.engine.request.infer(inputs, share_inputs=True)
        for i, name in enumerate(self.engine.outputs):
            got = self.engine.request.get_output_tensor(i).data
            kind = self.engine.kind(name)
            got = self.engine.miscompiled(name, self.active_optimization_profile, got)
            if got.size:
                at(addresses[name], got.shape, kind)[...] = got.view(kind) if kind == np.uint16 else got

    def tensor(self, address, name, shape):
        kind = self.engine.kind(name)
        array = at(address, shape, kind) if np.prod(shape) else np.zeros(shape, kind)
        return openvino.Tensor(array, list(shape), openvino.Type.bf16) if kind == np.uint16 else array


def evaluated(dim: str | int, values: dict) -> int:
    if isinstance(dim, int):
        return dim
    if dim in values:
        return values[dim]
    if dim.startswith("8*"):
        return 8 * values[dim[2:]]
    if dim.endswith("/8"):
        return values[dim[:-2]] // 8
    return sum(values[part] for part in dim.split(" + "))


class Engine:
    api = OWN  # whose enums are given out

    def __init__(self, plan: dict, log: list):
        import onnx

        self.profiles, self.name, self.log = plan["profiles"], Path(plan["graph"]).stem, log
        graph = onnx.load(plan["graph"], load_external_data=False).graph
        self.symbols = {
            v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim)
            for v in (*graph.input, *graph.output)
        }
        core = openvino.Core()
        model = core.read_model(plan["graph"])
        # read before compiling, which may give a port that was fused with a cast the cast's name
        self.inputs, self.outputs = ([port.any_name for port in side] for side in (model.inputs, model.outputs))
        self.compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self.request = self.compiled.create_infer_request()
        self.ports = dict(zip(self.inputs, self.compiled.inputs, strict=True))
        self.ports |= dict(zip(self.outputs, self.compiled.outputs, strict=True))
        if self.name == "vit":  # OpenVINO 2026.4.1: a first call with a single patch spoils every later one
            self.request.infer({i: self._zeros(name) for i, name in enumerate(self.inputs)})
        self.num_io_tensors, self.num_optimization_profiles = len(self.ports), len(self.profiles)
        self.weight_streaming_budget_v2 = None

    def _zeros(self, name, rows=4):
        shape = [rows if isinstance(dim, str) else dim for dim in self.symbols[name]]
        return openvino.Tensor(self.ports[name].element_type, openvino.Shape(shape))

    def get_tensor_name(self, i):
        return list(self.ports)[i]

    def get_tensor_mode(self, name):
        return self.api.TensorIOMode.INPUT if name in self.inputs else self.api.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return getattr(self.api.DataType, self._type(name))

    def kind(self, name):
        return NUMPY[self._type(name)]

    def _type(self, name):
        return KINDS[self.ports[name].element_type.get_type_name()]

    def miscompiled(self, output, profile, values):
        fault = Runtime.faults.get((self.name, output, profile))
        return values if fault is None else fault(values.copy())

    def get_tensor_profile_shape(self, name, profile):
        if name in self.profiles[profile]:
            return self.profiles[profile][name]
        return (self.symbols[name],) * 3

    @property
    def device_memory_size_v2(self):
        return 1000 * len(self.profiles)

    def create_runtime_config(self):
        return RuntimeConfig()

    def create_execution_context(self, how):
        """how: an allocation strategy, or a runtime config."""
        config = how if isinstance(how, RuntimeConfig) else None
        allocation = how if config is None else config.allocation
        assert allocation == self.api.ExecutionContextAllocationStrategy.USER_MANAGED
        if config is None:
            return Context(self)
        config.cache.compile(self.name)
        return Context(self, config.dynamic_shapes_kernel_specialization_strategy)


class RuntimeConfig:
    allocation = cache = dynamic_shapes_kernel_specialization_strategy = None

    def set_execution_context_allocation_strategy(self, strategy):
        self.allocation = strategy

    def create_runtime_cache(self):
        return RuntimeCache()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class RuntimeCache:
    """Compiled kernels, a line for each graph that was compiled."""

    compiled: list = []  # by any process
    taken = True  # whether kept ones are taken

    def __init__(self):
        self.kernels: list[str] = []

    def compile(self, graph):
        if graph not in self.kernels:
            self.kernels.append(graph)
            RuntimeCache.compiled.append(graph)

    def deserialize(self, blob):
        if RuntimeCache.taken:
            self.kernels = bytes(blob).decode().split()
        return RuntimeCache.taken

    def serialize(self):
        return "\n".join(self.kernels).encode()


class Parser:
    def __init__(self, network, log):
        self.network, self.num_errors = network, 0

    def load_model_proto(self, model, path):
        self.network.path, self.network.weights = path, {}
        return True

    def parse_from_file(self, path):
        return self.load_model_proto(b"", path)

    def load_initializer(self, name, address, size):
        self.network.weights[name] = (address, size)
        return True

    def parse_model_proto(self):
        return True


class Builder:
    eight_bits = False  # whether the graphs have 8-bit floats
    targets: list = []  # the architectures it was told
    takes_target = True  # what it answers to one

    def __init__(self, log):
        self.built = []

    def create_network(self, flags):
        assert flags == 1 << int(Engine.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        kind = Engine.api.DataType.FP8 if Builder.eight_bits else Engine.api.DataType.FLOAT
        constant = SimpleNamespace(type=Engine.api.LayerType.CONSTANT, num_outputs=1)
        constant.get_output = lambda i: SimpleNamespace(dtype=kind)
        return SimpleNamespace(num_layers=1, get_layer=lambda i: constant)

    def create_builder_config(self):
        config = SimpleNamespace(profiles=[], flags=[], progress_monitor=None)
        config.add_optimization_profile = lambda p: config.profiles.append(p.shapes) or len(config.profiles) - 1
        config.set_flag = config.flags.append
        config.set_compute_capability = lambda sm, place: Builder.targets.append(sm) or Builder.takes_target
        config.clear_flag = lambda flag: config.flags.append(f"not {flag}")
        config.create_timing_cache = lambda data: SimpleNamespace(serialize=lambda: data + b".")
        config.set_timing_cache = lambda cache, ignore_mismatch: True
        return config

    def create_optimization_profile(self):
        profile = SimpleNamespace(shapes={})
        profile.set_shape = lambda name, *spans: profile.shapes.update({name: spans})
        return profile

    def build_serialized_network(self, network, config):
        if config.progress_monitor is not None:
            config.progress_monitor.phase_start("building", None, 2)
            config.progress_monitor.step_complete("building", 0)
            config.progress_monitor.phase_finish("building")
        plan = {
            "graph": network.path,
            "profiles": config.profiles,
            "flags": [str(flag) for flag in config.flags],
            "weights": len(network.weights),
        }
        return json.dumps(plan).encode()


class Runtime:
    log: list = []
    put = staticmethod(lambda work, stream: work())  # what a stream does with work
    faults: dict = {}  # (graph, output, profile) -> what is given out instead of the right values
    strategies: list = []  # how each run's context compiles kernels for new shapes
    refuses: str | None = None  # what it says of a plan that it does not load
    validity: tuple = ()  # what it finds of that plan's header

    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, plan):
        if Runtime.refuses is not None:
            self.logger.log(Engine.api.ILogger.ERROR, Runtime.refuses)
            return None
        return Engine(json.loads(bytes(plan)), Runtime.log)

    def get_engine_validity(self, plan):
        return Runtime.validity


class Logger:
    ERROR, INTERNAL_ERROR = 1, 0

    def __init__(self, severity=None):
        pass


OWN.ILogger = Logger


def module() -> SimpleNamespace:
    """What `import tensorrt` would give."""
    progress = type("IProgressMonitor", (), {})
    made = {"Builder": Builder, "OnnxParser": Parser, "Runtime": Runtime, "Logger": Logger}
    return SimpleNamespace(__version__="11.4.0", IProgressMonitor=progress, **made, **vars(OWN))

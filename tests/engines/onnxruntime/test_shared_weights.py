"""One copy of the weights for all ONNX Runtime sessions of a device. The machine's own memory is the device here.

CUDA has not executed any of this: an engine finds out for itself whether its sessions read values where they lie.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from fake_cuda import FakeCuda
from sum_graphs import probe

from bagel_engines import EngineFailure, onnx_files
from bagel_engines.device import cuda
from bagel_engines.device.arrays import DeviceArray, HostMemory
from bagel_engines.number_formats import narrowed
from bagel_engines.onnx_files import places, unfused_places
from bagel_engines.onnxruntime import shared_weights
from bagel_engines.onnxruntime.device_engine import OnnxRuntimeDeviceEngine, on_host
from bagel_export.artefact.export import export
from bagel_rt.artefact.contract import GEN_STEP, UND_STEP, VAE_DECODER, graph_specs
from bagel_rt.artefact.example_inputs import example_inputs
from bagel_rt.artefact.manifest import read_manifest

UNPACKED = {"session.disable_prepacking": "1"}  # packing makes copies of what is read in place


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8", "w8a8"])
def artefact(request, quick_checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("shared") / request.param
    for _ in export(quick_checkpoint, out, precision=request.param, verify=False):
        pass
    return read_manifest(out)


def computed(engine, manifest, graph: str) -> list[np.ndarray]:
    spec = graph_specs(manifest.model, manifest.arithmetic)[graph]
    given = example_inputs(spec, 2 * manifest.model.num_hidden_layers)
    inputs = {t.name: narrowed(given[t.name], t.dtype) for t in spec.inputs}
    names = [t.name for t in spec.outputs]
    return [*engine.load(manifest.graph_file(graph)).run(inputs, names).values()]


def alone(monkeypatch) -> OnnxRuntimeDeviceEngine:
    """An engine whose sessions have weights of their own."""
    with monkeypatch.context() as here:
        here.setattr(onnx_files, "find_spec", lambda name: None)
        return on_host()


def test_results_are_bit_for_bit_those_of_sessions_with_their_own_weights(artefact, monkeypatch):
    shared, own = on_host(), alone(monkeypatch)
    for graph in (UND_STEP, GEN_STEP, VAE_DECODER):
        pairs = zip(computed(shared, artefact, graph), computed(own, artefact, graph), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs), graph


def test_what_both_step_graphs_read_is_on_the_device_once_and_goes_with_the_last_of_them(artefact):
    engine = on_host()
    graphs = [artefact.graph_file(name) for name in (UND_STEP, GEN_STEP)]
    und, gen = (unfused_places(graph) for graph in graphs)
    runners = [engine.load(graph) for graph in graphs]
    assert engine.shared_bytes == sum(place.length for place in {*und.values(), *gen.values()})
    assert engine.shared_bytes == sum(place.length for place in gen.values())  # the first graph's are all among them
    del runners[1]
    assert engine.shared_bytes == sum(place.length for place in {*und.values()})
    runners.clear()
    assert engine.shared_bytes == 0
    assert engine._memory._taken == {}


def test_many_bytes_on_their_way_are_told_each_once(artefact, monkeypatch):
    """And nothing of few, or of what is there already."""
    engine, told = on_host(), []
    engine.on_weights = lambda *what: told.append(what)
    few = engine.load(artefact.graph_file(UND_STEP))
    assert told == []
    monkeypatch.setattr(shared_weights, "MANY", 1)
    runner = engine.load(artefact.graph_file(GEN_STEP))
    missing = engine.shared_bytes - sum(array.nbytes for array in few._weights.values())
    assert [(graph, total) for graph, _, total in told] == [(GEN_STEP, missing)] * len(told)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})
    assert told[-1][1] == missing
    count = len(told)
    engine.load(artefact.graph_file(GEN_STEP))
    assert len(told) == count
    del runner


def test_every_weight_that_is_shared_is_read_where_it_lies(artefact):
    if artefact.precision == "float16":
        pytest.skip("CPUs have no float16 kernels: sessions there make float32 of the weights when they are loaded")
    engine, graph = on_host(settings=UNPACKED), UND_STEP
    wanted = computed(engine, artefact, graph)
    runner = engine.load(artefact.graph_file(graph))  # holds the weights that the next session reads
    unread = []
    for name, array in runner._weights.items():
        before = np.empty(array.nbytes, np.uint8)
        engine._memory.download(before, array.address)
        engine._memory.upload(array.address, before ^ 0x11)
        after = computed(engine, artefact, graph)
        engine._memory.upload(array.address, before)
        if all(np.array_equal(a, b) for a, b in zip(after, wanted, strict=True)):
            unread.append(name)
    assert unread == []


def test_weights_quantised_in_blocks_are_left_to_the_sessions_that_fuse_them(artefact):
    graph = artefact.graph_file(GEN_STEP)
    apart = set(places(graph)) - set(unfused_places(graph))
    assert bool(apart) == (artefact.precision == "int8")
    nodes = onnx.load(str(graph), load_external_data=False).graph.node
    assert apart <= {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.input}


def test_without_the_onnx_package_sessions_have_their_own_weights_and_the_engine_says_so(monkeypatch, small_artefact):
    engine = alone(monkeypatch)
    assert engine.info.remark == shared_weights.UNREADABLE
    engine.load(small_artefact / "und_step.onnx")
    assert engine.shared_bytes == 0


def onnxruntime_with(options: type) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(onnxruntime), "SessionOptions": options})


def engine_on(ort) -> OnnxRuntimeDeviceEngine:
    return OnnxRuntimeDeviceEngine(ort, on_host().info, HostMemory(), ["CPUExecutionProvider"])


def test_an_onnx_runtime_that_loads_its_own_copy_instead_is_found_out_and_not_given_any(small_artefact):
    class Deaf(onnxruntime.SessionOptions):
        def add_initializer(self, name, value): ...

    engine = engine_on(onnxruntime_with(Deaf))
    assert engine.info.remark == shared_weights.NOT_IN_PLACE
    engine.load(small_artefact / "und_step.onnx")
    assert engine.shared_bytes == 0


def test_a_session_that_refuses_given_weights_has_its_own_and_the_engine_says_so(small_artefact, monkeypatch):
    class Strict(onnxruntime.SessionOptions):
        given = False

        def add_initializer(self, name, value):
            super().add_initializer(name, value)
            self.given = name != shared_weights.ADDED

    def made(path, options, **more):
        if options.given:
            raise RuntimeError("initializers must be the model's own")
        return onnxruntime.InferenceSession(path, options, **more)

    ort = onnxruntime_with(Strict)
    ort.InferenceSession = made
    engine = engine_on(ort)
    assert engine.info.remark == ""
    assert engine.load(small_artefact / "und_step.onnx").outputs == ("und_out", "new_kv")
    assert engine.info.remark.startswith("'und_step' has its own copy of its weights: onnxruntime cannot load")
    assert engine.shared_bytes == 0


def test_a_graph_that_cannot_be_read_is_refused_with_its_name(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no graph at all")
    with pytest.raises(EngineFailure, match=r"broken\.onnx"):
        on_host().load(tmp_path / "broken.onnx")


def test_weights_go_back_to_cuda_itself_and_other_arrays_are_kept_for_the_next(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "runtime", lambda: fake)
    memory = cuda.CudaMemory(0)
    DeviceArray(memory, (64,), np.dtype(np.uint8))
    assert len(fake.memory) == 1
    DeviceArray(memory, (1000,), np.dtype(np.uint8), reused=False)
    assert len(fake.memory) == 1


def test_the_probe_is_the_graph_that_its_script_makes():
    assert shared_weights.PROBE.read_bytes() == probe().SerializeToString(deterministic=True)

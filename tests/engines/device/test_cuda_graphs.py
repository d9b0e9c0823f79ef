"""Repeated runs are captured once and played: the logic, over a CUDA that keeps the rules of capture. No GPU ran it."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from threading import get_ident

import fake_tensorrt
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorrt_contract
import tensorrt_rtx
from fake_cuda import FakeCuda
from tensorrt_standin import GPU

import bagel_rt
from bagel_engines import EngineFailure, EngineInfo, open_engine, repeating
from bagel_engines.device import cuda
from bagel_engines.device.arrays import DeviceArray, HostMemory, room_for
from bagel_engines.device.one_thread import OneThread
from bagel_engines.device.recorded_runs import Repeats
from bagel_engines.onnxruntime.device_engine import (
    DOES_NOT_WAIT,
    PLAINLY,
    SHRINKS,
    OnnxRuntimeDeviceEngine,
    on_host,
    with_graphs,
)
from bagel_engines.onnxruntime.pool_half import HALF, POOL, with_half_as_input
from bagel_engines.tensorrt.engine import TensorRtEngine
from bagel_engines.tensorrt.plan_builder import Flavour
from bagel_engines.tensorrt.recordings import KEPT, SETTLING, WORTH
from bagel_rt.api import Bagel
from bagel_rt.artefact.contract import FLOW_EMBED, FLOW_HEAD, GEN_STEP, VAE_DECODER, VIT
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.model.graphs import Graphs
from bagel_rt.tensorrt.stores import plans_for

PICTURE = {"seed": 3, "height": 64, "width": 64, "num_timesteps": 9}


@pytest.fixture
def device(monkeypatch) -> FakeCuda:
    found = FakeCuda()
    monkeypatch.setattr(cuda, "runtime", lambda: found)
    monkeypatch.setattr(fake_tensorrt.Runtime, "put", found.put)
    monkeypatch.setattr(fake_tensorrt.Runtime, "log", [])
    return found


def on_tensorrt(artefact, record: bool = True, trt=None) -> Bagel:
    manifest = read_manifest(artefact)
    info = EngineInfo("tensorrt", "11.4.0", "cuda:0", "float32")
    flavour, plans = Flavour("tensorrt", trt or fake_tensorrt.module()), plans_for(manifest, pool_tokens=2048)
    engine = TensorRtEngine(flavour, plans, GPU, cuda.CudaMemory(0), info, record)
    return Bagel(manifest, Graphs(manifest, engine), 2048)


def test_tensorrt_draws_the_same_pictures_with_steps_that_are_played(small_artefact, device):
    with on_tensorrt(small_artefact, record=False) as plain:
        wanted = [plain.generate(text, **PICTURE).latent for text in ("a red circle", "a blue square, far away")]
        cached = plain.generate("a red circle", **{**PICTURE, "num_timesteps": 14}, step_cache="taylorseer").latent
    assert (device.launched, len(device.graphs)) == (0, 0)
    with on_tensorrt(small_artefact) as bagel:
        assert bagel.engine == "tensorrt 11.4.0 (cuda:0, float32, CUDA graphs)"
        first = bagel.generate("a red circle", **PICTURE).latent
        assert len(device.graphs) == 5  # flow_embed, and for each of two branches gen_step and flow_head
        calls = bagel.graphs.calls
        prefilled = 1  # a call of gen_step that is not marked
        marked = calls[FLOW_EMBED] + calls[FLOW_HEAD] + calls[GEN_STEP] - prefilled
        assert marked - 8 * (1 + SETTLING) < device.launched <= marked - 5 * (1 + SETTLING)  # memory is new at first
        assert np.array_equal(first, wanted[0])
        assert np.array_equal(bagel.generate("a blue square, far away", **PICTURE).latent, wanted[1])
        again = bagel.generate("a red circle", **{**PICTURE, "num_timesteps": 14}, step_cache="taylorseer").latent
        assert np.array_equal(again, cached)
        assert bagel.free_tokens == 2048
    assert device.forbidden == []
    assert sum(graph.alive for graph in device.graphs) <= KEPT


def test_a_run_is_played_where_its_arrays_lie_where_they_lay(small_artefact, device):
    random = np.random.default_rng(0)
    with on_tensorrt(small_artefact) as bagel:
        width, engine = bagel.manifest.model.hidden_size, bagel.graphs.engine
        rows = [random.standard_normal((5, width)).astype(np.float32) for _ in range(8)]
        wanted = [bagel.graphs(FLOW_HEAD, gen_out=r)[0] for r in rows]
        run = lambda row: bagel.graphs(FLOW_HEAD, held=("velocity",), gen_out=row)[0]  # noqa: E731
        with repeating(engine):
            got = [run(row).numpy() for row in rows]
            assert all(np.array_equal(*pair) for pair in zip(got, wanted, strict=True))
            assert (len(device.graphs), device.launched) == (1, len(rows) - 1 - SETTLING)
            kept = [run(engine.hold(row) if i % 2 else row) for i, row in enumerate(rows)]  # each lies elsewhere
        assert all(np.array_equal(g.numpy(), w) for g, w in zip(kept, wanted, strict=True))  # none was written over
        launched = device.launched
        bagel.graphs(FLOW_HEAD, gen_out=rows[0])  # not marked
        assert device.launched == launched


def test_only_so_many_recordings_are_kept(small_artefact, device):
    with on_tensorrt(small_artefact) as bagel, repeating(bagel.graphs.engine):
        rows = np.zeros((30, bagel.manifest.model.hidden_size), np.float32)
        for n in range(1, KEPT + 4):
            for _ in range(1 + SETTLING + WORTH):
                bagel.graphs(FLOW_HEAD, gen_out=rows[:n])
        assert len(device.graphs) == KEPT + 3
        assert sum(graph.alive for graph in device.graphs) == KEPT
        assert not device.graphs[0].alive


def test_what_cannot_be_captured_runs_plainly_and_the_engine_says_why(small_artefact, device):
    device.fail_to_instantiate = True
    with on_tensorrt(small_artefact, record=False) as plain, on_tensorrt(small_artefact) as bagel:
        drawn = [b.generate("a red circle", **PICTURE).latent for b in (plain, bagel)]
        assert np.array_equal(*drawn)
        assert "CUDA graphs, but not of " in bagel.engine
        for graph in (FLOW_EMBED, GEN_STEP, FLOW_HEAD):
            assert f"{graph}: CUDA cannot make a graph of a captured run" in bagel.engine


def test_a_capture_that_takes_memory_or_waits_is_refused_by_the_stand_in(device):
    memory = cuda.CudaMemory(0)
    stream = memory.stream
    for mistake in (lambda: memory.take(9), stream.wait, lambda: memory.copy([(0, 0, 0)])):
        with pytest.raises(EngineFailure, match="cudaErrorStreamCaptureUnsupported"):
            stream.capture(mistake)
    done: list[int] = []
    replay = stream.capture(lambda: device.put(lambda: done.append(1), stream.handle))
    assert done == []
    replay()
    replay()
    assert done == [1, 1]
    replay.close()
    assert device.forbidden == ["cudaMalloc", "cudaStreamSynchronize", "cudaMemcpyAsync"]


def test_memory_is_taken_on_its_device_in_every_thread(device):
    first, second = cuda.CudaMemory(0), cuda.CudaMemory(1)
    with ThreadPoolExecutor(1) as other:
        for memory in (second, first, second):
            other.submit(memory.take, 9).result()
        other.submit(second.landing, 8).result()
    assert device.taken_on == [1, 0, 1, 1]


def test_arrays_that_grow_a_little_find_room_that_was_given_back(device):
    memory = cuda.CudaMemory(0)
    for tokens in range(1, 500):
        DeviceArray(memory, (tokens,), np.dtype(np.int64))
    assert device.counts["cudaMalloc"] == 5  # of 256 bytes to 4096
    for size in (0, 1, 256, 257, 1 << 16, (1 << 16) + 1):
        assert size <= room_for(size) <= max(256, 2 * size)
    assert room_for((1 << 30) + 5) == (1 << 30) + 5


def test_uploads_wait_for_nothing_and_downloads_once_for_all_that_was_asked_before(device):
    memory, sent = cuda.CudaMemory(0), np.arange(9, dtype=np.int64)
    first, second = (memory.take(sent.nbytes) for _ in range(2))
    memory.upload(first, sent)
    wanted = sent.copy()
    sent[:] = 0  # it was read when the call returned
    memory.copy([(second, first, sent.nbytes)])
    memory.clear(first, 8)
    memory.blocks(first + 8, 8, second, 16, 8, 2)
    assert device.counts["cudaStreamSynchronize"] == 0
    got = [np.empty(9, np.int64) for _ in range(2)]
    memory.download_all([(got[0], second), (got[1], first)])
    assert device.counts["cudaStreamSynchronize"] == 1
    assert np.array_equal(got[0], wanted)
    assert got[1].tolist() == [0, 0, 2, *range(3, 9)]


def test_scratch_memory_that_grows_takes_the_recordings_with_it(small_artefact, device):
    with on_tensorrt(small_artefact) as bagel, repeating(bagel.graphs.engine):
        rows = np.zeros((3, bagel.manifest.model.hidden_size), np.float32)
        for _ in range(3 + SETTLING):  # one more: of equally large arrays the lowest is taken, but for the first time
            bagel.graphs(FLOW_HEAD, gen_out=rows)
        assert device.graphs[0].alive
        bagel.generate("a red circle", **PICTURE)  # its plans need more
        assert not device.graphs[0].alive
        assert device.forbidden == []


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_every_call_of_a_captured_run_is_one_that_the_real_bindings_take(small_artefact, device, flavour, monkeypatch):
    real = tensorrt_rtx if flavour == "tensorrt-rtx" else tensorrt_contract.bindings()
    monkeypatch.setattr(fake_tensorrt.Engine, "api", real)
    api = tensorrt_contract.WatchedModule(real, fake_tensorrt.module())
    with on_tensorrt(small_artefact, trt=api) as bagel:
        bagel.generate("a red circle", **PICTURE)
        assert bagel.engine.endswith("CUDA graphs)")
    assert device.launched > 15
    assert ("IExecutionContext.is_stream_capturable" in api.calls) == (flavour == "tensorrt-rtx")


def graph_number(options) -> int | None:
    with contextlib.suppress(AttributeError, RuntimeError):  # no options, or none that name it
        return int(options.get_run_config_entry("gpu_graph_id"))
    return None


@pytest.fixture
def numbers(monkeypatch):
    """The graph numbers that onnxruntime was given, by run."""
    import onnxruntime

    given, original = [], onnxruntime.InferenceSession.run_with_iobinding

    def run(self, binding, options=None):
        given.append(graph_number(options))
        return original(self, binding, options)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", run)
    return given


def bound(artefact, record: bool) -> Bagel:
    manifest = read_manifest(artefact)
    return Bagel(manifest, Graphs(manifest, on_host(record)), 2048)


def test_onnx_runtime_draws_the_same_pictures_with_steps_that_are_played(small_artefact, numbers):
    with bound(small_artefact, False) as plain, bound(small_artefact, True) as bagel:
        for options in ({}, {"step_cache": "taylorseer", "num_timesteps": 14}):
            wanted, drawn = (b.generate("a red circle", **{**PICTURE, **options}).latent for b in (plain, bagel))
            assert np.array_equal(wanted, drawn)
        assert bagel.engine.endswith("(cpu, float32, CUDA graphs)")
    assert set(numbers) >= {None, PLAINLY, 1, 2}
    assert min(n for n in numbers if n is not None) == PLAINLY
    assert sum(n not in (None, PLAINLY) for n in numbers) > 20


def test_results_are_copied_out_of_the_arena_once_something_is_captured_in_it(small_artefact):
    """onnxruntime counts a captured run's memory as free, and a replay writes there."""
    engine = on_host(record=True)
    manifest = read_manifest(small_artefact)
    runner = engine.load(manifest.graph_file(FLOW_HEAD))
    given = {"gen_out": np.ones((3, manifest.model.hidden_size), np.float32)}
    run = lambda: runner.run(given, ("velocity",), ("velocity",))["velocity"]  # noqa: E731
    before = run()
    with engine.repeating():
        played = [run() for _ in range(3)]
    after = run()
    assert [isinstance(one, DeviceArray) for one in (before, after, *played[1:])] == [False, True, True, True]
    assert all(np.array_equal(one.numpy(), before.numpy()) for one in (after, *played))


def test_one_thread_captures_and_replays_whoever_draws(small_artefact, numbers, monkeypatch):
    """onnxruntime keeps what it captured for each thread."""
    run, threads = onnxruntime.InferenceSession.run_with_iobinding, set()

    def watched(self, binding, options=None):
        number = graph_number(options)
        if number not in (None, PLAINLY):
            threads.add(get_ident())
        return run(self, binding, options)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", watched)
    with bound(small_artefact, True) as bagel:
        drawn = [bagel.generate("a red circle", **PICTURE).latent]
        for _ in range(2):
            with ThreadPoolExecutor(1) as other:
                drawn.append(other.submit(lambda: bagel.generate("a red circle", **PICTURE)).result().latent)
        assert "bagel-rt-graphs_0" in {thread.name for thread in threading.enumerate()}
    assert len(threads) == 1
    assert threads != {get_ident()}
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[0], drawn[2])
    assert "bagel-rt-graphs_0" not in {thread.name for thread in threading.enumerate()}


def test_who_is_interrupted_waits_until_the_other_thread_is_done(monkeypatch):
    thread, done = OneThread("other"), []

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        thread(lambda: (time.sleep(0.2), done.append(1)))
    assert done == [1]
    thread.close()
    thread.close()


def test_step_graphs_that_are_captured_are_told_how_long_the_pool_is(small_artefact):
    """From its shape they would compute that on the CPU, and onnxruntime refuses to capture such graphs."""
    engine = on_host(record=True)
    for graph in ("gen_step", "und_step"):
        model = onnx.load_from_string(with_half_as_input(small_artefact / f"{graph}.onnx") or b"")
        assert not [node for node in model.graph.node if node.op_type == "Shape" and node.input[0] == POOL]
        assert HALF in {given.name for given in model.graph.input}
        assert HALF not in engine.load(small_artefact / f"{graph}.onnx").inputs
    assert with_half_as_input(small_artefact / "flow_head.onnx") is None


def test_onnx_runtime_is_asked_for_graphs_and_goes_on_without_where_it_refuses(small_artefact, monkeypatch):
    import onnxruntime

    asked, original = [], onnxruntime.InferenceSession

    def session(path, options, providers, **settings):
        asked.append(providers[0])
        if providers[0][1].get("enable_cuda_graph") == "1":
            raise RuntimeError("not all compute nodes have been partitioned to the CUDAExecutionProvider")
        return original(path, options, providers=["CPUExecutionProvider"], **settings)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    info, provider = (
        EngineInfo("onnxruntime", "1.31.1", "cpu", "float32"),
        ("CUDAExecutionProvider", {"device_id": "0"}),
    )
    engine = OnnxRuntimeDeviceEngine(onnxruntime, info, HostMemory(), [provider], record=True)
    asked.clear()  # of what it tried out
    graphs = Graphs(read_manifest(small_artefact), engine)
    inputs = {"latents": np.zeros((4, 64), np.float32), "time": np.ones(1, np.float32), "position_ids": np.arange(4)}
    with repeating(engine):
        first, second = (graphs(FLOW_EMBED, **inputs)[0] for _ in range(2))
    assert np.array_equal(first, second)
    assert asked == [
        with_graphs(provider),
        with_graphs(provider),
        provider,
    ]  # the first two with shared weights and own
    assert "CUDA graphs, but not of flow_embed: onnxruntime cannot load" in str(engine.info)
    assert "not all compute nodes" in str(engine.info)


def test_memory_that_is_taken_in_the_cache_is_read_where_it_lies(small_artefact):
    told: list[str] = []
    memory = HostMemory()
    cache = on_host().cache(2, 4, (1, 2), np.dtype(np.float32))
    assert cache.tensor.lasting
    repeats = Repeats(memory, told.append)
    recorded = []

    def plain():
        return {"out": cache.tensor}

    def record(inputs, shapes):
        recorded.append(sorted(inputs))
        raise EngineFailure("enough")

    other = on_host().hold(np.zeros(3, np.float32))
    for _ in range(2):
        repeats.run("graph", ("out",), {"pool": cache.tensor, "x": other}, plain, record)
    assert recorded == [["x"]]
    assert told == ["CUDA graphs", "CUDA graphs, but not of graph: enough"]


def test_engines_without_graphs_say_so_when_they_are_asked_for(small_artefact):
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(bagel_rt.EngineUnavailableError, match="has no CUDA graphs; they need --device cuda"):
            bagel_rt.load(small_artefact, backend, cuda_graphs=True)
    with repeating(open_engine("openvino")):  # a mark that means nothing there
        pass


def test_graphs_that_a_picture_needs_once_are_not_captured_and_give_their_memory_back(small_artefact):
    engine = on_host(record=True)
    runner = engine.load(read_manifest(small_artefact).graph_file(VAE_DECODER))
    latent = np.zeros((1, 16, 4, 4), np.float32)
    with engine.repeating():
        for _ in range(3):
            runner.run({"latent": latent}, ("pixels",))
    assert len(engine._repeats._recordings) == 0
    info = EngineInfo("onnxruntime", onnxruntime.__version__, "cuda:3", "float16")
    there = OnnxRuntimeDeviceEngine(onnxruntime, info, HostMemory(), ["CPUExecutionProvider"])
    given_back = {name: there._plain_run(name).get_run_config_entry(SHRINKS) for name in (VIT, VAE_DECODER)}
    assert given_back == {VIT: "gpu:3", VAE_DECODER: "gpu:3"}
    assert there._plain_run(GEN_STEP).get_run_config_entry(DOES_NOT_WAIT) == "1"

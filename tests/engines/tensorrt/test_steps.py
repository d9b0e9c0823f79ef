"""What a denoising step asks of TensorRT and CUDA: one run a graph, nothing copied on the device, nothing waited for
before the velocities are read. Counts over the stand-ins; no GPU ran it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import fake_tensorrt
import pytest
import tensorrt_contract
import tensorrt_rtx
from fake_cuda import FakeCuda
from tensorrt_standin import GPU

from bagel_engines import EngineInfo
from bagel_engines.device import cuda
from bagel_engines.tensorrt.engine import TensorRtEngine
from bagel_engines.tensorrt.plan_builder import Flavour
from bagel_engines.tensorrt.recordings import SETTLING, Recordings
from bagel_rt.api import Bagel
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.model.graphs import Graphs
from bagel_rt.tensorrt.stores import plans_for

PICTURE = {"seed": 3, "height": 64, "width": 64, "cfg_interval": (0.0, 1.0)}  # both branches in every step
BRANCHES = 2  # cond and cfg_text: no picture is given
RUNS = 1 + 2 * BRANCHES  # flow_embed, and for each branch gen_step and flow_head
SENT = 3  # the step's latents, its time, and the latents' places
FEW, MANY = 14, 24


@pytest.fixture
def device(monkeypatch) -> FakeCuda:
    found = FakeCuda()
    monkeypatch.setattr(cuda, "runtime", lambda: found)
    monkeypatch.setattr(fake_tensorrt.Runtime, "put", found.put)
    monkeypatch.setattr(fake_tensorrt.Runtime, "log", [])
    monkeypatch.setattr(fake_tensorrt.Runtime, "strategies", [])
    monkeypatch.setattr(fake_tensorrt.Context, "told", Counter())
    return found


def opened(artefact, record: bool, trt=None) -> Bagel:
    manifest = read_manifest(artefact)
    info = EngineInfo("tensorrt", "11.4.0", "cuda:0", "float32")
    flavour, plans = Flavour("tensorrt", trt or fake_tensorrt.module()), plans_for(manifest, pool_tokens=2048)
    engine = TensorRtEngine(flavour, plans, GPU, cuda.CudaMemory(0), info, record)
    return Bagel(manifest, Graphs(manifest, engine), 2048)


def a_step(bagel: Bagel, device: FakeCuda, **options: Any) -> Counter:
    """Calls of one more denoising step, by name."""

    def calls(points: int) -> Counter:
        before = device.counts + fake_tensorrt.Context.told
        bagel.generate("a red circle", **PICTURE, num_timesteps=points, **options)
        return device.counts + fake_tensorrt.Context.told - before

    for _ in range(3 + SETTLING):  # every graph is loaded, and what comes once a picture was recorded, too
        calls(FEW)
    more = calls(MANY) - calls(FEW)
    assert not [name for name, count in more.items() if count % (MANY - FEW)], more
    return Counter({name: count // (MANY - FEW) for name, count in more.items()})


def test_a_step_is_a_run_a_graph_and_nothing_is_copied_or_waited_for_on_the_way(small_artefact, device):
    with opened(small_artefact, record=False) as bagel:
        step = a_step(bagel, device)
    assert step["execute_async_v3"] == RUNS
    assert step["cudaMemcpyHostToDevice"] == SENT
    assert step["cudaMemcpyDeviceToHost"] == BRANCHES  # velocities, which guidance needs on the host
    assert step["cudaStreamSynchronize"] == 1  # for both
    silent = ("cudaMemcpyDeviceToDevice", "cudaMalloc", "cudaFree", "cudaMemsetAsync")
    assert [step[name] for name in silent] == [0] * len(silent)
    assert step["set_optimization_profile_async"] == step["set_device_memory"] == 0


def test_a_played_step_is_a_launch_a_graph_and_tensorrt_is_asked_nothing(small_artefact, device):
    with opened(small_artefact, record=True) as bagel:
        step = a_step(bagel, device)
    assert step == {
        "cudaGraphLaunch": RUNS, "cudaMemcpyHostToDevice": SENT, "cudaMemcpyDeviceToHost": BRANCHES,
        "cudaStreamSynchronize": 1,
    }  # fmt: skip
    assert device.forbidden == []


def test_addresses_and_shapes_are_told_when_they_change(small_artefact, device):
    """With one branch every array of a step lies where it lay in the step before, so nothing is told again."""
    with opened(small_artefact, record=False) as bagel:
        step = a_step(bagel, device, cfg_text_scale=1.0)
    assert step["execute_async_v3"] == 3
    assert [name for name in step if name.startswith("set_")] == []


def test_contexts_of_recordings_that_were_dropped_are_used_again(small_artefact, device, monkeypatch):
    made = []
    new = fake_tensorrt.Engine.create_execution_context
    monkeypatch.setattr(
        fake_tensorrt.Engine, "create_execution_context", lambda self, how: made.append(self.name) or new(self, how)
    )
    with opened(small_artefact, record=True) as bagel:
        for side in (32, 48, 64, 80, 96, 112):
            bagel.generate("a red circle", seed=1, height=side, width=side, num_timesteps=9, cfg_text_scale=1.0)
            bagel.graphs.engine._shared.recordings.close()
    assert made.count("flow_head") == 2  # one for runs that are seen for the first time, one for recordings


def test_sums_of_step_caching_are_not_recorded(small_artefact, device, monkeypatch):
    recorded, run = set(), Recordings.run
    monkeypatch.setattr(Recordings, "run", lambda self, graph, *rest: recorded.add(graph) or run(self, graph, *rest))
    with opened(small_artefact, record=True) as bagel:
        bagel.generate("a red circle", **PICTURE, num_timesteps=14, step_cache="taylorseer")
    assert recorded == {"flow_embed", "gen_step", "flow_head"}
    assert {"plus", "slope"} < {graph for graph, _ in fake_tensorrt.Runtime.log}


def test_what_is_captured_was_compiled_for_its_shape_first(small_artefact, device, monkeypatch):
    """With TensorRT-RTX a recording's context waits for its kernels; others let them be made beside."""
    monkeypatch.setattr(fake_tensorrt.Engine, "api", tensorrt_rtx)
    kinds = tensorrt_rtx.DynamicShapesKernelSpecializationStrategy
    api = tensorrt_contract.WatchedModule(tensorrt_rtx, fake_tensorrt.module())
    with opened(small_artefact, record=True, trt=api) as bagel:
        bagel.generate("a red circle", **PICTURE, num_timesteps=FEW)
        assert device.launched > RUNS
    assert set(fake_tensorrt.Runtime.strategies) == {kinds.LAZY, kinds.EAGER}
    with opened(small_artefact, record=False, trt=api) as bagel:
        fake_tensorrt.Runtime.strategies.clear()
        bagel.generate("a red circle", **PICTURE, num_timesteps=FEW)
    assert set(fake_tensorrt.Runtime.strategies) == {kinds.LAZY}

"""TensorRT-RTX compiles kernels while it runs: they are kept beside the plan and compiled once, not in each process."""

from __future__ import annotations

import fake_tensorrt
import pytest
import tensorrt_contract
import tensorrt_rtx
import tensorrt_standin
from fake_tensorrt import RuntimeCache
from tensorrt_standin import GPU

from bagel_engines import EngineInfo, disk
from bagel_engines.device.arrays import HostMemory
from bagel_engines.tensorrt.engine import TensorRtEngine
from bagel_engines.tensorrt.plan_builder import Flavour
from bagel_rt.api import Bagel
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.model.graphs import Graphs
from bagel_rt.tensorrt.stores import plans_for

PICTURE = {"seed": 3, "height": 64, "width": 64, "num_timesteps": 4}


@pytest.fixture(autouse=True)
def rtx(monkeypatch) -> Flavour:
    monkeypatch.setattr(fake_tensorrt.Engine, "api", tensorrt_rtx)
    monkeypatch.setattr(fake_tensorrt.Runtime, "log", [])
    monkeypatch.setattr(RuntimeCache, "compiled", [])
    return Flavour("tensorrt-rtx", tensorrt_contract.WatchedModule(tensorrt_rtx, fake_tensorrt.module()))


def drawn(artefact, flavour: Flavour) -> dict[str, bytes]:
    """Draw a picture as a process of its own would; returns the kept kernels of each graph."""
    manifest = read_manifest(artefact)
    plans = plans_for(manifest, pool_tokens=4096)
    info = EngineInfo("tensorrt-rtx", "1", "cuda:0", "float32")
    with Bagel(manifest, Graphs(manifest, TensorRtEngine(flavour, plans, GPU, HostMemory(), info)), 4096) as bagel:
        bagel.generate("a red circle", **PICTURE)
    return {path.name.partition("-")[0]: path.read_bytes() for path in plans.folder.glob("*.kernels")}


def test_kernels_are_kept_beside_their_plan_and_the_next_process_compiles_none(small_artefact, rtx):
    kept = drawn(small_artefact, rtx)
    assert set(kept) >= {"gen_step", "flow_embed", "flow_head", "vae_decoder"}
    assert sorted(RuntimeCache.compiled) == sorted(kept)
    drawn(small_artefact, rtx)
    assert sorted(RuntimeCache.compiled) == sorted(kept)
    folder = plans_for(read_manifest(small_artefact)).folder
    assert {path.stem for path in folder.glob("*.kernels")} == {path.stem for path in folder.glob("*.plan")}


def test_kernels_that_tensorrt_does_not_take_are_compiled_and_kept_again(small_artefact, rtx, monkeypatch):
    kept = drawn(small_artefact, rtx)
    for path in plans_for(read_manifest(small_artefact)).folder.glob("*.kernels"):
        path.write_bytes(b"of another driver")
    monkeypatch.setattr(RuntimeCache, "taken", False)
    assert drawn(small_artefact, rtx) == kept
    assert len(RuntimeCache.compiled) == 2 * len(kept)


def test_a_folder_that_takes_no_kernels_stops_nothing(small_artefact, rtx, monkeypatch):
    drawn(small_artefact, rtx)
    for path in plans_for(read_manifest(small_artefact)).folder.glob("*.kernels"):
        path.unlink()

    def refuse(path, data):
        raise PermissionError(13, "read-only", str(path))

    monkeypatch.setattr(disk, "write_whole", refuse)
    assert drawn(small_artefact, rtx) == {}


def test_tensorrt_11_compiles_when_it_builds_and_keeps_none(small_artefact, monkeypatch):
    monkeypatch.setattr(fake_tensorrt.Engine, "api", fake_tensorrt.OWN)
    assert drawn(small_artefact, tensorrt_standin.FAKE) == {}

"""A plan that does not load: the error says which case it is, what to do, and what TensorRT's logger said."""

from __future__ import annotations

import fake_tensorrt
import pytest
import tensorrt_contract
import tensorrt_rtx
from tensorrt_standin import FAKE, GPU

from bagel_engines import EngineFailure, EngineInfo
from bagel_engines.device.arrays import HostMemory
from bagel_engines.device.linear_sums import PLUS, SUM_GRAPHS
from bagel_engines.protocol import OutOfDeviceMemory
from bagel_engines.tensorrt import plan_builder
from bagel_engines.tensorrt.engine import Plans, TensorRtEngine
from bagel_engines.tensorrt.load_errors import CAUSES
from bagel_engines.tensorrt.plan_builder import Flavour
from bagel_engines.tensorrt.plan_store import Target

KINDS = tensorrt_rtx.EngineInvalidityDiagnostics


@pytest.fixture
def rtx(monkeypatch) -> Flavour:
    monkeypatch.setattr(fake_tensorrt.Engine, "api", tensorrt_rtx)
    return Flavour("tensorrt-rtx", tensorrt_contract.WatchedModule(tensorrt_rtx, fake_tensorrt.module()))


def refused(flavour, graph, tmp_path, monkeypatch, validity=None, damage=False) -> EngineFailure:
    """What loading a plan raises that TensorRT does not take."""
    plans = Plans(tmp_path, "model", lambda graph: ())
    engine = TensorRtEngine(flavour, plans, GPU, HostMemory(), EngineInfo("tensorrt", "1", "cuda:0", "float32"))
    plan = engine.plan_of(graph)
    if damage:
        plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(fake_tensorrt.Runtime, "refuses", "its own words")
    monkeypatch.setattr(fake_tensorrt.Runtime, "validity", validity)
    with pytest.raises(EngineFailure, match="It said: its own words") as caught:
        engine.load(graph)
    assert str(plan) in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "kinds, told",
    [
        (KINDS.UNSUPPORTED_CC, "does not run it on this GPU, a card.*again does not help: use --backend onnxruntime"),
        (KINDS.VERSION_MISMATCH, "built with another version than tensorrt-rtx .*: remove it and it is built again"),
        (KINDS.OLD_CUDA_DRIVER, "the driver, for CUDA 13.0, is older than it needs: install a newer one"),
        (KINDS.MALFORMED_ENGINE, "the file is damaged: remove it"),
        (KINDS.CUDA_ERROR, "run bagel-rt doctor"),
    ],
)
def test_what_the_header_shows_is_told(rtx, small_artefact, tmp_path, monkeypatch, kinds, told):
    validity = (tensorrt_rtx.EngineValidity.INVALID, int(kinds))
    error = refused(rtx, small_artefact / "flow_head.onnx", tmp_path, monkeypatch, validity)
    assert not isinstance(error, OutOfDeviceMemory)
    with pytest.raises(EngineFailure, match=told):
        raise error


def test_too_little_memory_for_a_plan_is_the_error_of_that_name(rtx, small_artefact, tmp_path, monkeypatch):
    validity = (tensorrt_rtx.EngineValidity.INVALID, int(KINDS.INSUFFICIENT_GPU_MEMORY))
    error = refused(rtx, small_artefact / "flow_head.onnx", tmp_path, monkeypatch, validity)
    assert isinstance(error, OutOfDeviceMemory)


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_a_file_that_is_not_what_was_written_is_called_damaged(rtx, small_artefact, tmp_path, monkeypatch, flavour):
    validity = (tensorrt_rtx.EngineValidity.VALID, 0)
    own = rtx if flavour == "tensorrt-rtx" else FAKE
    monkeypatch.setattr(fake_tensorrt.Engine, "api", tensorrt_rtx if own is rtx else fake_tensorrt.OWN)
    graph = small_artefact / "flow_head.onnx"
    whole = refused(own, graph, tmp_path / "whole", monkeypatch, validity)
    assert "the file is what was built" in str(whole)
    monkeypatch.setattr(fake_tensorrt.Runtime, "refuses", None)
    assert "the file is damaged" in str(refused(own, graph, tmp_path / "cut", monkeypatch, validity, damage=True))


def test_every_cause_that_tensorrt_knows_has_a_sentence():
    assert set(CAUSES) == {name for name, kind in KINDS.__members__.items() if int(kind)}


def test_tensorrt_rtx_itself_says_why_it_loads_nothing_without_a_driver(tmp_path):
    shape = ((1, 4), (2, 4), (4, 4))
    plans = Plans(tmp_path, "model", lambda graph: [dict.fromkeys(SUM_GRAPHS[graph], shape)])
    info, found = EngineInfo("tensorrt-rtx", "1", "cuda:0", "float32"), plan_builder.flavour("tensorrt-rtx")
    engine = TensorRtEngine(found, plans, Target.across("SM89"), HostMemory(), info)
    with pytest.raises(EngineFailure, match=r"It said: .*CUDA driver version is insufficient"):
        engine.load(PLUS)
    plan = engine.plan_of(PLUS)
    plan.write_bytes(b"?" + plan.read_bytes()[1:])
    with pytest.raises(EngineFailure, match=r"the file is damaged: .*It said: .*magicTag"):
        engine.load(PLUS)
    here = TensorRtEngine(found, plans, GPU, HostMemory(), info)  # CURRENT: it needs a GPU, and makes no other plan
    with pytest.raises(EngineFailure, match=r"cannot build .*CUDA driver version is insufficient"):
        here.load(PLUS)

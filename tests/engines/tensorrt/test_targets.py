"""Which GPU a plan is built for is always said, and what that GPU cannot do is refused before anything is built."""

from __future__ import annotations

from types import SimpleNamespace

import fake_tensorrt
import pytest
import tensorrt_contract
import tensorrt_rtx
from tensorrt_standin import FAKE, GPU

from bagel_engines import EngineFailure
from bagel_engines.device import cuda
from bagel_engines.tensorrt.engine import Plans
from bagel_engines.tensorrt.plan_builder import BuildSettings, Flavour, build
from bagel_engines.tensorrt.plan_store import Target

CAPABILITY = tensorrt_rtx.ComputeCapability


@pytest.fixture
def rtx(monkeypatch) -> Flavour:
    """TensorRT-RTX's real signatures around the builder that is stood in for."""
    monkeypatch.setattr(fake_tensorrt.Engine, "api", tensorrt_rtx)
    monkeypatch.setattr(fake_tensorrt.Builder, "targets", [])
    return Flavour("tensorrt-rtx", tensorrt_contract.WatchedModule(tensorrt_rtx, fake_tensorrt.module()))


@pytest.fixture
def graph(small_artefact):
    return small_artefact / "flow_head.onnx"


def settings(target: Target, tmp_path) -> BuildSettings:
    return Plans(tmp_path, "model", lambda graph: ()).settings("flow_head", target)


def test_a_plan_for_this_machine_names_the_gpu_at_hand_and_one_for_others_its_architecture(rtx, graph, tmp_path):
    build(rtx, graph, settings(GPU, tmp_path))
    build(rtx, graph, settings(Target.across("SM120"), tmp_path))
    assert fake_tensorrt.Builder.targets == [CAPABILITY.CURRENT, CAPABILITY.SM120]


def test_a_target_that_the_builder_does_not_take_is_an_error(rtx, graph, tmp_path, monkeypatch):
    monkeypatch.setattr(fake_tensorrt.Builder, "takes_target", False)
    for target, told in ((GPU, "the GPU of this machine"), (Target.across("SM75"), "architecture 'SM75'")):
        with pytest.raises(EngineFailure, match=f"does not build for {told}: name another, such as --sm SM120"):
            build(rtx, graph, settings(target, tmp_path))


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize(
    "given, told",
    [
        (BuildSettings(()), "so its GPU must be known: name one, --sm SM89 or newer"),
        (BuildSettings((), here="SM86"), "the target is SM86: GPUs before SM89 have no 8-bit floats.*w8a8"),
        (BuildSettings((), architecture="SM80"), "the target is SM80"),
    ],
)
def test_eight_bit_floats_are_refused_before_the_build_where_the_gpu_lacks_them_or_is_not_known(
    rtx, graph, monkeypatch, flavour, given, told
):
    monkeypatch.setattr(fake_tensorrt.Builder, "eight_bits", True)
    monkeypatch.setattr(fake_tensorrt.Builder, "build_serialized_network", lambda *a: pytest.fail("built"))
    monkeypatch.setattr(fake_tensorrt.Engine, "api", tensorrt_rtx if flavour == "tensorrt-rtx" else fake_tensorrt.OWN)
    with pytest.raises(EngineFailure, match=told):
        build(rtx if flavour == "tensorrt-rtx" else FAKE, graph, given)


def test_eight_bit_floats_are_built_for_gpus_that_have_them(rtx, graph, monkeypatch):
    monkeypatch.setattr(fake_tensorrt.Builder, "eight_bits", True)
    for given in (BuildSettings((), architecture="SM89"), BuildSettings((), here="SM120")):
        assert build(rtx, graph, given)


def test_a_device_is_named_by_its_compute_capability(monkeypatch):
    found = SimpleNamespace(major=12, minor=0, name=b"a card", totalGlobalMem=24 << 30)
    monkeypatch.setattr(cuda, "runtime", lambda: SimpleNamespace(cudaGetDeviceProperties=lambda index: (0, found)))
    assert cuda.architecture(0) == "SM120"
    assert cuda.describe(0) == "a card, 24 GiB, compute capability 12.0"

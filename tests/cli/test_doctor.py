"""What `doctor` says of both flavours of TensorRT: installed, loading, with a driver, computing."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import fake_tensorrt
import pytest
from tensorrt_standin import FAKE, GPU

from bagel_engines import EngineFailure, diagnosis
from bagel_engines.device import cuda
from bagel_engines.device.arrays import HostMemory
from bagel_engines.onnxruntime.device_engine import on_host
from bagel_engines.tensorrt import plan_builder
from bagel_engines.tensorrt.plan_store import Target
from bagel_rt.cli import main


def found(name: str) -> diagnosis.Finding:
    return next(f for f in diagnosis.backends() if f.backend == name)


@pytest.fixture
def card(monkeypatch):
    """Both flavours installed, and a GPU; OpenVINO computes."""
    monkeypatch.setattr(fake_tensorrt.Runtime, "log", [])
    monkeypatch.setattr(fake_tensorrt.Runtime, "faults", {})
    monkeypatch.setattr(plan_builder, "flavour", lambda name=None: SimpleNamespace(**vars(FAKE), version="11.4.0"))
    monkeypatch.setattr(cuda, "device_count", lambda: 1)
    monkeypatch.setattr(cuda, "check_room", lambda index, needed: None)
    monkeypatch.setattr(cuda, "CudaMemory", lambda index: HostMemory())
    monkeypatch.setattr(Target, "at_hand", staticmethod(lambda index: GPU))


def test_a_machine_with_a_gpu_is_told_that_a_small_plan_was_executed(card):
    assert found("tensorrt").works
    assert found("tensorrt").detail == "tensorrt 11.4.0 (cuda:0, float32): built and executed a small plan"
    assert fake_tensorrt.Runtime.log


def test_a_gpu_that_computes_wrongly_is_found_out(card, monkeypatch):
    monkeypatch.setitem(fake_tensorrt.Runtime.faults, ("plus", "out", 0), lambda values: values + 1)
    told = found("tensorrt")
    assert not told.works
    assert told.detail.endswith("computes a small plan wrongly on this GPU; install another version")


def test_a_gpu_that_no_plan_can_be_built_for_is_told_in_the_builders_words(card, monkeypatch):
    def refuse(*_):
        raise EngineFailure("tensorrt 11.4.0 cannot build plus: compute capability 5.2 is not supported")

    monkeypatch.setattr(plan_builder, "build", refuse)
    assert "does not execute a small plan: tensorrt 11.4.0 cannot build plus" in found("tensorrt").detail


def test_without_a_driver_rtx_says_that_it_builds_and_executes_nothing(capsys):
    told = found("tensorrt-rtx")
    assert not told.works
    assert told.detail.startswith("tensorrt-rtx 1.7.1.116 is installed and loads; it builds plans for other GPUs here")
    assert "executes none: no NVIDIA driver was found; install one that supports CUDA" in told.detail
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert ("tensorrt-rtx", "cuda", False) in [(b["backend"], b["device"], b["works"]) for b in report["backends"]]


@pytest.mark.parametrize("right", [True, False])
def test_onnx_runtime_on_a_device_works_only_where_it_has_executed_a_small_graph(monkeypatch, right):
    device = on_host()
    monkeypatch.setattr(diagnosis, "COMBINATIONS", (("onnxruntime", "cuda"),))
    monkeypatch.setattr(diagnosis, "open_engine", lambda backend, device_: device)
    monkeypatch.setattr(HostMemory, "download", HostMemory.download if right else lambda *_: None)
    told = found("onnxruntime")
    assert told.works == right
    assert told.detail.endswith("executed a small graph" if right else "computes a small graph wrongly on this GPU")


def test_what_is_not_installed_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(plan_builder, "find_spec", lambda name: None)
    for name in ("tensorrt", "tensorrt-rtx"):
        assert found(name).detail.startswith(f"{name} is not installed; run: pip install 'bagel-rt[tensorrt]'")


def test_a_library_that_does_not_load_is_told_with_the_loaders_words(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    told = found("tensorrt")
    assert not told.works
    assert "its library does not load: libnvinfer.so.11: cannot open shared object file" in told.detail
    assert "pip install 'bagel-rt[tensorrt]'" in told.detail


def test_a_cpu_engine_names_the_arithmetics_that_change_something_here(monkeypatch, capsys):
    monkeypatch.setattr("bagel_engines.openvino.arithmetic.rounds_rows", lambda beside: False)
    monkeypatch.setattr("bagel_engines.openvino.arithmetic.native", lambda name: False)
    monkeypatch.setattr("bagel_engines.openvino.arithmetic.changes_numbers", lambda name: name == "bfloat16")
    emulated = "bfloat16 emulated: this CPU has no such instructions, float32 is faster"
    assert found("openvino").arithmetics == ("float32", emulated)
    monkeypatch.setattr("bagel_engines.onnxruntime.cpu_engine.recognised", lambda: False)
    assert found("onnxruntime").arithmetics == ("float32", "int8-rows")
    assert main(["doctor"]) == 0
    assert "takes --arithmetic float32; int8-rows\n" in capsys.readouterr().out

"""ONNX Runtime with everything on a device. No GPU is needed: the same code runs over the machine's own memory here.

What CUDA itself does is not tested; that its absence is told in words is.
"""

from __future__ import annotations

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from golden_cases import distance
from hypothesis import given, settings
from hypothesis import strategies as st

import bagel_rt
from bagel_engines import EngineFailure, HostCache, OutOfDeviceMemory, open_engine
from bagel_engines.device import cuda
from bagel_engines.device.arrays import DeviceCache, HostMemory, runs
from bagel_engines.onnxruntime.device_engine import on_host
from bagel_rt.api import Bagel
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.cli import main
from bagel_rt.model.graphs import Graphs

PICTURE = {"seed": 3, "height": 64, "width": 64, "num_timesteps": 5}


def bound(artefact) -> Bagel:
    manifest = read_manifest(artefact)
    return Bagel(manifest, Graphs(manifest, on_host()), 4096)


@pytest.fixture(scope="module")
def pair(small_artefact):
    """The model through bindings, and on the plain engine."""
    with bound(small_artefact) as device, bagel_rt.load(small_artefact, "onnxruntime", cache_tokens=4096) as host:
        yield device, host


def test_pictures_edits_answers_and_plans_are_those_of_the_plain_engine(pair):
    device, host = pair
    drawn = [b.generate("a red circle", **PICTURE) for b in pair]
    assert np.array_equal(drawn[0].latent, drawn[1].latent)
    source = drawn[0].image
    assert np.array_equal(*(b.edit(source, "make it blue", seed=1, num_timesteps=4).latent for b in pair))
    assert (
        device.ask("what is it?", source, max_tokens=6).token_ids
        == host.ask("what is it?", source, max_tokens=6).token_ids
    )
    planned = [b.generate("a circle", think=True, max_think_tokens=4, **PICTURE) for b in pair]
    assert planned[0].text == planned[1].text
    assert device.free_tokens == host.free_tokens == 4096


def test_the_step_cache_forecasts_the_same_on_a_device(pair):
    cached = [
        b.generate("a red circle", seed=3, height=64, width=64, num_timesteps=12, step_cache="taylorseer") for b in pair
    ]
    assert distance(cached[0].latent, cached[1].latent) < 1e-6


def test_a_denoising_step_brings_only_the_velocity_back(pair, monkeypatch):
    device, _ = pair
    device.generate("a red circle", cfg_text_scale=1.0, **PICTURE)  # graphs are loaded
    moved = travelling(monkeypatch)
    device.generate("a red circle", cfg_text_scale=1.0, **PICTURE)
    per_step = (16, device.manifest.model.latent_width)
    pixels = (1, 3, 64, 64)
    assert sorted(moved["download"]) == sorted([per_step] * 4 + [pixels])


def test_forecasts_are_made_where_the_rows_are(pair, monkeypatch):
    device, _ = pair
    model = device.manifest.model
    assert model.hidden_size == model.latent_width  # of one shape here: they are told apart by their number
    moved, rows = travelling(monkeypatch), (16, model.latent_width)
    device.generate("a red circle", **{**PICTURE, "num_timesteps": 14}, step_cache="taylorseer", cfg_text_scale=1.0)
    assert moved["download"].count(rows) == 13  # a velocity per step
    assert moved["upload"].count(rows) == 7  # latents of the steps that are evaluated


def travelling(monkeypatch) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of the arrays that are brought to the device and back from now on."""
    moved: dict[str, list[tuple[int, ...]]] = {"upload": [], "download": []}
    up, down = HostMemory.upload, HostMemory.download
    monkeypatch.setattr(HostMemory, "upload", lambda m, t, a: (moved["upload"].append(a.shape), up(m, t, a))[1])
    monkeypatch.setattr(HostMemory, "download", lambda m, a, s: (moved["download"].append(a.shape), down(m, a, s))[1])
    return moved


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cache_on_a_device_holds_what_one_on_the_host_holds(data):
    kind = data.draw(st.sampled_from([np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.uint16)]))
    memory = HostMemory()
    caches = HostCache(4, 12, (2, 3), kind), DeviceCache(memory, 4, 12, (2, 3), kind)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    for _ in range(data.draw(st.integers(1, 6))):
        slots = np.array(data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True)))
        rows = random.integers(0, 1000, (4, len(slots), 2, 3)).astype(kind)
        source, target = data.draw(st.tuples(st.integers(0, 5), st.integers(6, 9)))
        for cache in caches:
            cache.write(slots, rows)
            cache.move(source, target, 3)
    everything = np.arange(12)
    assert np.array_equal(caches[0].read(everything), caches[1].read(everything))
    assert np.array_equal(caches[0].tensor, caches[1].tensor.numpy())
    assert np.array_equal(caches[0].read(slots), caches[1].read(slots))
    del cache, caches
    assert memory._taken == {}  # nothing is kept that nobody holds


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 30), unique=True))
def test_slots_are_copied_in_as_few_pieces_as_they_have_runs(slots):
    pieces = runs(np.array(slots, np.int64))
    assert [slot + i for _, slot, count in pieces for i in range(count)] == slots
    assert [place for place, _, _ in pieces] == np.cumsum([0, *(c for _, _, c in pieces)])[:-1].tolist()
    assert all(a[1] + a[2] != b[1] for a, b in pairwise(pieces))


def test_onnx_runtime_without_cuda_is_told_before_weights_are_read(small_artefact):
    with pytest.raises(
        bagel_rt.EngineUnavailableError, match=r"without CUDA; run: pip uninstall onnxruntime, then pip"
    ):
        bagel_rt.load(small_artefact, "onnxruntime", "cuda")


@pytest.fixture
def with_cuda(monkeypatch):
    """ONNX Runtime as if it had been built with CUDA."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])


def fake_runtime(**values):
    """cuda-python's runtime with these results in place of a driver's."""
    real = cuda.runtime()
    ok = real.cudaError_t.cudaSuccess
    given_values = {name: (lambda *_, v=value: (ok, *v)) for name, value in values.items()}
    names = ("cudaError_t", "cudaMemcpyKind", "cudaGetErrorString")
    return SimpleNamespace(**{n: getattr(real, n) for n in names}, **given_values)


def test_a_missing_driver_is_told_in_words(with_cuda, small_artefact):
    with pytest.raises(
        bagel_rt.EngineUnavailableError, match="no NVIDIA driver was found; install one that supports CUDA 13"
    ):
        bagel_rt.load(small_artefact, "onnxruntime", "cuda")


def test_a_missing_cuda_python_is_told_in_words(with_cuda, monkeypatch):
    monkeypatch.setattr(cuda, "find_spec", lambda name: None)
    with pytest.raises(EngineFailure, match=r"cuda-python is not installed; run: pip install 'bagel-rt\[cuda\]'"):
        open_engine("onnxruntime", "cuda")


def test_a_device_that_is_not_there_is_told_with_the_number_of_devices(with_cuda, monkeypatch):
    fake = fake_runtime(cudaDriverGetVersion=(13000,), cudaRuntimeGetVersion=(13000,), cudaGetDeviceCount=(2,))
    monkeypatch.setattr(cuda, "runtime", lambda: fake)
    with pytest.raises(EngineFailure, match=r"cuda:5 is not there; this machine has 2 CUDA device"):
        open_engine("onnxruntime", "cuda:5")
    with pytest.raises(EngineFailure, match="device 'tpu' is unknown; allowed: cpu, cuda, cuda:N"):
        open_engine("onnxruntime", "tpu")


def test_a_device_with_too_little_free_memory_is_refused_with_the_numbers(with_cuda, monkeypatch, small_artefact):
    fake = fake_runtime(
        cudaDriverGetVersion=(13000,), cudaRuntimeGetVersion=(13000,), cudaGetDeviceCount=(1,), cudaSetDevice=(),
        cudaMemGetInfo=(1 << 20, 12 << 30),
    )  # fmt: skip
    monkeypatch.setattr(cuda, "runtime", lambda: fake)
    with pytest.raises(
        bagel_rt.EngineUnavailableError, match=r"cuda:0 has 0\.0 of 12\.0 GiB free, the model's weights"
    ):
        bagel_rt.load(small_artefact, "onnxruntime", "cuda")


def test_a_failed_cuda_call_says_what_and_why():
    status = cuda.runtime().cudaError_t
    with pytest.raises(OutOfDeviceMemory, match=r"CUDA cannot take 9 bytes: out of memory"):
        cuda.checked((status.cudaErrorMemoryAllocation,), "take 9 bytes")
    with pytest.raises(EngineFailure, match=r"CUDA cannot finish: .*\(cudaErrorNoDevice\)"):
        cuda.checked((status.cudaErrorNoDevice,), "finish")


def test_too_little_device_memory_in_a_call_is_a_named_error_and_the_next_call_works(small_artefact, monkeypatch):
    with bound(small_artefact) as bagel:
        wanted = bagel.generate("a red circle", **PICTURE).latent
        original, calls = HostMemory.take, []

        def full(self, size):
            calls.append(size)
            if len(calls) == 20:
                raise OutOfDeviceMemory(f"CUDA cannot take {size} bytes: out of memory")
            return original(self, size)

        monkeypatch.setattr(HostMemory, "take", full)
        with pytest.raises(bagel_rt.OutOfDeviceMemoryError, match="out of memory"):
            bagel.generate("a blue square", **PICTURE)
        assert np.array_equal(bagel.generate("a red circle", **PICTURE).latent, wanted)
        assert bagel.free_tokens == 4096


def test_doctor_says_what_works_and_what_to_install(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {(b["backend"], b["device"]): b for b in report["backends"]}
    assert found["onnxruntime", "cpu"]["works"]
    assert found["openvino", "cpu"]["works"]
    assert not found["onnxruntime", "cuda"]["works"]
    assert "pip install 'bagel-rt[cuda]'" in found["onnxruntime", "cuda"]["detail"]
    assert report["cuda"]["driver"] == "none"
    assert main(["doctor"]) == 0
    assert "works     onnxruntime on cpu" in capsys.readouterr().out

"""Benchmarks run in their small form, so that they run at once where a machine waits: pytest -m bench."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench
ROOT = Path(__file__).parents[2]


def test_the_gpu_benchmark_runs_from_end_to_end_in_its_small_form(tmp_path):
    command = [sys.executable, "bench/gpu.py", "--small", "--device", "cpu", "--out", tmp_path / "gpu.json"]
    command += ["--work", tmp_path / "work", "--checkpoint", "bench/nano/bagel-nano"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    printed = json.loads(done.stdout.strip().splitlines()[-1])
    assert printed == json.loads((tmp_path / "gpu.json").read_text())
    results = printed["results"]
    assert [name for name, value in results.items() if isinstance(value, dict) and "failed" in value] == []
    for name in ("torch bf16 eager: denoise branch", "onnxruntime: denoise branch", "onnxruntime: text to image"):
        assert any(key.startswith(name) for key in results), name
    for name in ("denoise branch", "text to image", "edit"):
        assert any(key.startswith(f"onnxruntime, CUDA graphs: {name}") for key in results), name
    assert "CUDA graphs" in results["onnxruntime, CUDA graphs: engine"]
    assert "CUDA graphs" not in results["onnxruntime: engine"]
    assert results["fp16 against float32: bagel-nano"]["relative_l2_of_latents"] < 0.05


def test_the_layer_benchmark_runs_in_its_small_form(tmp_path):
    command = [sys.executable, "bench/layers.py", "--small", "--rounds", "1", "--work", tmp_path / "new", "--eager"]
    ways = ["int8/float32", "onnxruntime:int8/int8-rows", "onnxruntime:w8a8/float32"]
    command += ["--ways", *ways]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    for work, row in json.loads(done.stdout.strip().splitlines()[-1])["results"].items():
        assert {"torch", "torch int8", *ways} == row.keys(), work
        assert all(found["ms"] > 0 for found in row.values())
        assert row["torch"]["form"] in row["torch"]["forms"]


def test_what_engines_ran_is_counted_by_what_they_say_afterwards():
    ways = ("w8a8/float32", "onnxruntime:int8/int8", "onnxruntime:w8a8/float32")
    found = small_form("ran", "--ways", *ways)["results"]
    assert found["w8a8/float32"]["int8"] == 14
    assert found["onnxruntime:int8/int8"] == {"MatMulNBits": 14}
    assert found["onnxruntime:w8a8/float32"]["MatMulInteger"] == 14
    assert "DequantizeLinear" not in found["onnxruntime:w8a8/float32"]


def test_the_full_size_benchmark_runs_in_its_small_form_and_cleans_up(tmp_path):
    command = [sys.executable, "bench/full_size.py", "--small", "--work", tmp_path / "work", "--precisions", "int8"]
    command += ["--side", "64", "--points", "3", "--tokens", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found = json.loads(done.stdout.strip().splitlines()[-1])["results"]["int8"]
    assert found["draw"]["calls"]["draw"]["vae_decoder"] == 1
    assert found["ask"]["seconds"]["tokens"] == 4
    assert found["edit"]["peak_anonymous_and_shared_gib"] > 0
    assert list((tmp_path / "work").iterdir()) == []


def test_the_memory_that_is_planned_for_the_bundled_model_is_about_what_it_takes():
    done = subprocess.run([sys.executable, "bench/memory.py", "--small"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert {row["engine"] for row in report["results"]["bagel-nano"]} == {"openvino", "onnxruntime"}
    assert 0.7 < report["ratios"]["least"] <= report["ratios"]["most"] < 1.4


def small_form(name: str, *options: str) -> dict:
    command = [sys.executable, f"bench/{name}.py", "--small", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_the_benchmark_of_a_layer_in_pieces_runs_in_its_small_form():
    report = small_form("sparse_layer", "--rounds", "1")
    assert set(report["ratio_to_dense"]) == {"dense", "16to8", "32to16"}
    assert report["ratio_to_dense"]["dense"] == {"onnxruntime": 1.0, "openvino": 1.0}


def test_the_benchmark_of_vit_and_vae_runs_in_its_small_form():
    results = small_form("encoders", "--rounds", "1", "--precisions", "fp32")["results"]
    assert set(results) == {"vit", "vae_decoder", "vae_encoder"}
    for rows in results.values():
        assert rows["onnxruntime float32, fp32 weights"]["relative_error"] < 1e-5
        assert rows["openvino float32, fp32 weights"]["relative_error"] < 1e-5


def test_the_benchmark_of_a_whole_picture_draws_what_the_official_control_flow_draws():
    options = ("--sides", "64", "--rounds", "1", "--points", "8", "--layers", "2", "--ways", "int8", "int8/float32")
    (row,) = small_form("picture", *options, "--eager")["results"].values()
    assert row["torch"]["form"] in row["torch"]["forms_3_points"]
    for way in ("int8", "int8/float32"):
        assert row[way]["latents_apart"] < 0.1
        assert row[f"{way}, step cache"]["planned_ms"] > 0


def test_the_official_control_flow_of_a_picture_makes_three_forwards_where_it_guides(tmp_path, monkeypatch):
    from bagel_export.checkpoint.open import open_checkpoint
    from bagel_export.checkpoint.synthetic import write_checkpoint
    from bench import picture, torch_picture

    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "checkpoint", picture.shape(True, 1)))
    official = torch_picture.Official(checkpoint, "float32", False)
    forwards, real = [], official.run.velocity
    monkeypatch.setattr(official.run, "velocity", lambda *given: forwards.append(given) or real(*given))
    official.latents(picture.options(64, 8))
    assert len(forwards) == 7 + 2 * 6  # guided down to t = 0.4: six steps of seven


def test_the_benchmark_of_growth_runs_in_its_small_form_and_draws_a_plot(tmp_path):
    results = small_form("growth", "--rounds", "1", "--plot", str(tmp_path / "growth.png"))["results"]
    assert set(results) == {"latents", "context, denoising", "context, one token", "layers"}
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_the_benchmark_of_the_start_maps_at_the_second_what_the_first_packed():
    done = subprocess.run([sys.executable, "bench/start.py"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(report["results"]) == {"openvino, int8", "onnxruntime, int8"}
    assert report["packed_gb"] > 0


def test_the_benchmark_of_many_users_runs_in_its_small_form():
    results = small_form("serving", "--backends", "onnxruntime")["results"]
    (rows,) = results["tokens, bagel-nano"].values()
    assert rows["8"]["calls"] < rows["8"]["tokens"] / 2
    overheads = {"overhead, bagel-nano", "overhead, one layer"}
    assert set(results) == {"tokens, bagel-nano", "tokens, one layer", "drawing", *overheads, "mix"}
    assert results["mix"]["edit, 2 at once"]["pictures_per_s"] > 0


def test_the_benchmark_of_a_clusters_door_runs_in_its_small_form():
    pytest.importorskip("ray", reason="needs ray, which is large: make ray")
    command = [sys.executable, "bench/ray_door.py", "--small"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    results = json.loads(done.stdout.strip().splitlines()[-1])["results"]
    assert len(results) == 4
    assert min(results.values()) > 0

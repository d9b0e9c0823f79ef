"""`bagel-rt batch --ray`: a file of requests over a cluster's workers, one of which is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from live_server import soon
from PIL import Image

import bagel_rt

pytest.importorskip("ray", reason="needs ray, which is large: make ray")
pytestmark = [pytest.mark.slow, pytest.mark.ray]
STEPS = 30


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster on this machine, of two workers."""
    import ray

    where = f"/tmp/bagel-rt-batch-{os.getpid()}"  # sockets' paths are short, pytest's folders are not
    ray.init(num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, _temp_dir=where)
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()
        shutil.rmtree(where, ignore_errors=True)


@pytest.fixture(scope="module")
def nano() -> Iterator[bagel_rt.Bagel]:
    with bagel_rt.load("bagel-nano", backend="onnxruntime", threads=1) as bagel:
        yield bagel


@pytest.fixture
def file(tmp_path, nano):
    nano.generate("a red circle", seed=1, num_timesteps=20).image.save(tmp_path / "circle.png")
    lines = [{"prompt": "a red ring", "seed": seed, "num_timesteps": STEPS} for seed in range(10)]
    lines += [{"task": "ask", "prompt": "what colour is the circle?", "image": "circle.png", "id": "asked"}]
    (tmp_path / "requests.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "requests.jsonl"


def begun(file, address, *more) -> subprocess.Popen:
    command = [sys.executable, "-m", "bagel_rt.cli", "batch", file, "--out", file.parent / "out", "--ray", address]
    end = ["--ray-workers", "2", "--backend", "onnxruntime", "--threads", "1", *more]
    return subprocess.Popen([*map(str, command), *end], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def results(file) -> list[dict]:
    there = file.parent / "out" / "results.jsonl"
    return [json.loads(line) for line in there.read_text().splitlines()] if there.exists() else []


def workers() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if "ray::Worker" in command(one)]


def command(process: psutil.Process) -> str:
    """Its words; none where it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_batch_is_done_by_several_workers_though_one_is_killed_and_its_command_too(file, address, nano):
    first = begun(file, address)
    assert soon(lambda: len(results(file)) >= 2, 120), first.communicate()
    os.kill(min(one.pid for one in workers()), signal.SIGKILL)
    assert soon(lambda: len(results(file)) >= 5, 120)
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=60)
    assert "Traceback" not in said[1]
    before = len(results(file))
    assert before < 11
    second = begun(file, address)
    text, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert text.strip().endswith(f"11 of 11 done, {before} of them before")
    assert len({one["id"] for one in results(file)}) == len(results(file)) == 11
    for one in results(file):
        if one["task"] == "ask":
            assert one["text"] == nano.ask("what colour is the circle?", file.parent / "circle.png").text
        else:
            drawn = np.asarray(Image.open(file.parent / "out" / one["files"][0]))
            wanted = nano.generate("a red ring", seed=one["seeds"][0], num_timesteps=STEPS).image
            assert np.array_equal(drawn, np.asarray(wanted))
    assert soon(lambda: not workers(), 30)


def test_a_request_that_fails_is_told_and_a_model_that_is_none_ends_the_run(file, address):
    lines = [*file.read_text().splitlines()[:1], json.dumps({"prompt": "x", "height": 8000, "width": 8000})]
    file.write_text("\n".join(lines))
    _, errors = (one := begun(file, address)).communicate(timeout=300)
    assert one.returncode == 1
    assert "1 requests failed" in errors
    assert ["error" in record for record in sorted(results(file), key=lambda record: record["id"])] == [False, True]
    _, errors = (one := begun(file, address, "--arithmetic", "none-such")).communicate(timeout=300)
    assert one.returncode == 2
    assert "none-such" in errors
    assert "Traceback" not in errors


def test_a_cluster_that_is_not_there_is_said(file):
    _, errors = (one := begun(file, "127.0.0.1:1")).communicate(timeout=120)
    assert one.returncode == 2
    assert "no Ray cluster at 127.0.0.1:1" in errors
    assert "Traceback" not in errors

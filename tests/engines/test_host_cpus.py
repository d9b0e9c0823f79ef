"""Engines take as many threads as the process may use CPUs."""

from __future__ import annotations

import os

import pytest

from bagel_engines import Settings, host_cpus, open_engine
from bagel_engines.host_cpus import allowed_cpus


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of 16 CPUs, of which a process may use some; the container's limit is written to a file."""

    def of(affinity: int = 16, limit: str | None = None) -> int | None:
        monkeypatch.setattr(os, "cpu_count", lambda: 16)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
        monkeypatch.setattr(host_cpus, "CGROUP", tmp_path)
        if limit is not None:
            (tmp_path / "cpu.max").write_text(limit + "\n")
        return allowed_cpus()

    return of


def test_a_process_that_may_use_every_cpu_leaves_the_number_of_threads_to_the_engine(machine):
    assert machine() is None
    assert machine(limit="max 100000") is None
    assert machine(limit="1600000 100000") is None
    assert machine(limit="nonsense") is None


@pytest.mark.parametrize(
    "affinity, limit, cpus",
    [(1, None, 1), (3, "max 100000", 3), (16, "200000 100000", 2), (4, "50000 100000", 1), (16, "250000 100000", 3)],
)
def test_the_smaller_of_a_processs_cpus_and_its_containers_share_is_what_it_may_use(machine, affinity, limit, cpus):
    assert machine(affinity, limit) == cpus


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_engines_start_as_many_threads_as_the_process_may_use(machine, backend):
    machine(1)
    assert _threads(open_engine(backend)) == 1
    assert _threads(open_engine(backend, settings=Settings(threads=2))) == 2


def _threads(engine) -> int:
    wrapped = getattr(engine, "_threads", None)
    return wrapped if wrapped is not None else engine._config["INFERENCE_NUM_THREADS"]

"""The folder for a machine with a CUDA card: what is in it unpacks to what was put in, and it is never too large."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from bench import gpu_pack

ROOT = Path(gpu_pack.__file__).parents[1]


@pytest.fixture
def few(monkeypatch, tmp_path) -> Path:
    """Only bench/ of the project, and an artefact of two files."""
    monkeypatch.setattr(gpu_pack, "PACKED", ("bench/gpu.py", "bench/timing.py"))
    folder = tmp_path / "fp16"
    folder.mkdir()
    for name in ("bagel_rt.json", "weights.safetensors"):
        (folder / name).write_bytes(name.encode() * 100)
    return folder


def test_the_folder_unpacks_to_the_project_and_the_artefacts_and_its_script_is_one(few, tmp_path):
    size = gpu_pack.pack(tmp_path / "out", [few])
    assert 0 < size < 1 << 20
    for name in ("project", "artefacts"):
        with tarfile.open(tmp_path / "out" / f"{name}.tar.xz") as archive:
            archive.extractall(tmp_path / "there", filter="data")
    assert (tmp_path / "there/bench/gpu.py").read_bytes() == (ROOT / "bench/gpu.py").read_bytes()
    assert (tmp_path / "there/artefacts/fp16/weights.safetensors").stat().st_size == 1900
    subprocess.run(["sh", "-n", tmp_path / "out" / "run.sh"], check=True)


def test_the_commit_and_the_graphs_of_the_released_size_are_in_it(few, tmp_path):
    gpu_pack.pack(tmp_path / "out", [few], few)
    with tarfile.open(tmp_path / "out" / "project.tar.xz") as archive:
        archive.extract("COMMIT", tmp_path, filter="data")
    assert (tmp_path / "COMMIT").read_text().strip() == gpu_pack.commit()
    with tarfile.open(tmp_path / "out" / "released.tar.xz") as archive:
        assert sorted(archive.getnames()) == ["released/bagel_rt.json", "released/weights.safetensors"]
    assert "--released" in (tmp_path / "out" / "run.sh").read_text()


def test_what_bagel_nano_is_trained_on_from_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_pack, "PACKED", ("bench/nano",))
    gpu_pack.pack(tmp_path / "out", [])
    with tarfile.open(tmp_path / "out" / "project.tar.xz") as archive:
        names = archive.getnames()
    assert "bench/nano/make.py" in names
    assert [name for name in names if name.startswith("bench/nano/bagel-nano/")] == []


def test_a_folder_that_is_too_large_is_refused_and_not_left_behind(few, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_pack, "MOST", 1000)
    with pytest.raises(SystemExit, match="fewer --artefact"):
        gpu_pack.pack(tmp_path / "out", [few])
    assert not (tmp_path / "out").exists()

"""Shared fixtures: the recorded checkpoint and a random one, each exported once per run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path


def share_cores() -> None:
    """Give each worker of a parallel run (pytest -n) cores of its own: thread pools of several would wait for each
    other. Before anything is imported that counts them."""
    worker, count = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if not worker.startswith("gw") or not hasattr(os, "sched_setaffinity"):
        return
    own = sorted(os.sched_getaffinity(0))[int(worker[2:]) :: count]
    if own:
        os.sched_setaffinity(0, own)
        os.environ["OMP_NUM_THREADS"] = str(len(own))


share_cores()

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

import bagel_rt  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fuzzing comes last, for the time that is left (helpers/changed_bytes.py)."""
    items.sort(key=lambda item: item.path.parent.name == "fuzzing")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """No test sees, or changes, what the user's own exports left behind."""
    monkeypatch.setenv("BAGEL_RT_HOME", str(tmp_path / "bagel-home"))
    monkeypatch.setenv("BAGEL_RT_CACHE", str(tmp_path / "bagel-cache"))
    monkeypatch.delenv("BAGEL_RT_MODEL", raising=False)


@pytest.fixture(scope="session", autouse=True)
def traced_once(tmp_path_factory) -> Iterator[None]:
    """Tracing is most of a small export: what is the same in everything, names included, is traced once for all workers
    of a run, and with BAGEL_RT_TEST_CACHE set for all runs of the same code."""
    try:
        from kept_traces import remembered

        from bagel_export.onnx import tracing
    except ModuleNotFoundError:  # the runtime's own tests run without torch
        yield
        return

    store, own = os.environ.get("BAGEL_RT_TEST_CACHE"), tmp_path_factory.getbasetemp()
    of_the_run = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = Path(store) / f"traces-{exporter_digest()}" if store else of_the_run / "traces"
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "trace", remembered(tracing.trace, folder))
        yield


@pytest.fixture
def hints_taken(monkeypatch) -> None:
    """OpenVINO as on a CPU where every arithmetic changes something: for tests of what is done around it."""
    from bagel_engines.openvino import arithmetic

    monkeypatch.setattr(arithmetic, "native", lambda name: True)
    monkeypatch.setattr(arithmetic, "rounds_rows", lambda beside: True)


@pytest.fixture
def photo() -> Image.Image:
    """100 x 70 pixels of noise."""
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (70, 100, 3)).astype(np.uint8))


def exported(name: str, checkpoint: Path, folder: Path, **how: object) -> Path:
    """An artefact in a folder of the run's own. With BAGEL_RT_TEST_CACHE set it is exported once for all runs of the
    same code: exporting is most of a short test run."""
    from bagel_export.artefact.export import export

    out, store = folder / name, os.environ.get("BAGEL_RT_TEST_CACHE")
    kept = Path(store) / f"{name}-{exporter_digest()}" if store else None
    if kept is not None and kept.is_dir():
        return Path(shutil.copytree(kept, out))
    for _ in export(checkpoint, out, **how):  # type: ignore[arg-type]
        pass
    if kept is not None:
        partial = Path(shutil.copytree(out, kept.with_name(f"{kept.name}.{os.getpid()}")))
        with contextlib.suppress(OSError):  # another run was first
            partial.rename(kept)
    return out


@pytest.fixture(scope="session")
def export_once():
    """`exported`, for the artefacts of a test file."""
    return exported


@cache
def exporter_digest() -> str:
    """Of all code and files, as they are imported, that decide what an export of the tests' checkpoints holds."""
    import bagel_export

    runtime, found = Path(bagel_rt.__file__).parent, hashlib.sha256()
    for part in (
        Path(bagel_export.__file__).parent,
        runtime / "artefact",
        *(runtime / "adapters" / f"{name}.py" for name in ("config", "files", "keys", "products", "read")),
        runtime / "files" / "safetensors_file.py",
        GOLDEN / "checkpoint",
        GOLDEN / "make_checkpoint.py",
    ):
        files = [part] if part.is_file() else sorted(part.rglob("*"))
        for path in files:
            if path.is_file() and path.suffix != ".pyc":
                found.update(path.read_bytes())
    return found.hexdigest()[:16]


@pytest.fixture(scope="session")
def golden_checkpoint(tmp_path_factory) -> Path:
    """The checkpoint of the recorded runs, weights filled in."""
    folder = tmp_path_factory.mktemp("golden") / "checkpoint"
    shutil.copytree(GOLDEN / "checkpoint", folder)
    subprocess.run([sys.executable, GOLDEN / "make_checkpoint.py", folder], check=True, env=os.environ)
    return folder


@pytest.fixture(scope="session")
def golden_artefact(golden_checkpoint, tmp_path_factory) -> Path:
    """The recorded runs' checkpoint, exported with parity checks."""
    return exported("golden", golden_checkpoint, tmp_path_factory.mktemp("artefact"))


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory) -> Path:
    """A random checkpoint of the default synthetic shape (128 px pictures). Copy it before changing it."""
    from bagel_export.checkpoint.synthetic import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint")


@pytest.fixture(scope="session")
def quick_checkpoint(tmp_path_factory) -> Path:
    """The smallest checkpoint there is, one layer of everything: for tests about files, not about numbers."""
    from bagel_export.checkpoint.synthetic import SMALL_VIT, Shape, write_checkpoint

    shape = replace(Shape().with_llm(num_hidden_layers=1), vit=replace(SMALL_VIT, num_hidden_layers=2))
    return write_checkpoint(tmp_path_factory.mktemp("quick") / "checkpoint", shape)


@pytest.fixture(scope="session")
def small_artefact(small_checkpoint, tmp_path_factory) -> Path:
    """The random checkpoint, exported."""
    return exported("small", small_checkpoint, tmp_path_factory.mktemp("artefact"), verify=False)


@pytest.fixture(scope="session")
def bf16_artefact(small_checkpoint, tmp_path_factory) -> Path:
    """The random checkpoint in bfloat16."""
    return exported("bf16", small_checkpoint, tmp_path_factory.mktemp("artefact"), precision="bf16", verify=False)


@pytest.fixture(scope="session")
def quantised_artefacts(small_checkpoint, tmp_path_factory) -> Path:
    """A folder with the random checkpoint as int8, int4 and w8a8."""
    folder = tmp_path_factory.mktemp("quantised")
    for word in ("int8", "int4", "w8a8"):
        exported(word, small_checkpoint, folder, precision=word)
    return folder


@pytest.fixture(scope="session")
def small_bagel(small_artefact):
    """The random model on ONNX Runtime, open for the whole run."""
    with bagel_rt.load(small_artefact, backend="onnxruntime") as bagel:
        yield bagel


@pytest.fixture
def model(small_artefact, monkeypatch) -> Path:
    """The random model as the one that commands use."""
    monkeypatch.setenv("BAGEL_RT_MODEL", str(small_artefact))
    return small_artefact

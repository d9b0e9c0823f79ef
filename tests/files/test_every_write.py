"""Each thing that is written: every call to the disk fails in turn, and the process is killed at every call in turn.

Afterwards the old content is there whole, or the new; an error names the path and says what happened; nothing half
written is left; and the next try works.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from failing_disk import KILLED, FailingDisk, telling, use
from PIL import Image

from bagel_engines import EngineFailure, claims, disk
from bagel_engines.onnx_files import mapped
from bagel_engines.onnxruntime.packed_weights import PackedStore
from bagel_engines.tensorrt.plan_builder import BuildSettings
from bagel_engines.tensorrt.plan_store import PlanKey, PlanStore, Target
from bagel_export.artefact import export as exporting
from bagel_export.artefact.publish import publishing
from bagel_rt.artefact.folders import BUNDLED, find_model, use_model
from bagel_rt.artefact.manifest import MANIFEST, read_manifest
from bagel_rt.errors import ArtefactError, BagelError
from bagel_rt.estimate import choice
from bagel_rt.estimate.ways import Way
from bagel_rt.files.output_files import append_line, write_bytes
from bagel_rt.model.token_embeddings import TokenEmbeddings
from bagel_rt.results import ImageResult

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EINTR, errno.EACCES)  # the last: Windows, for a file in use
OLD, NEW = "old", "new"
FREE = ("", "-1", "-2")
CHECKPOINT: list[Path] = []
WORD = [OLD]  # what the export under way writes into its graph


@dataclass(frozen=True)
class Scenario:
    """write: puts NEW where OLD may be. read: what is there, None for nothing. named: what an error must name."""

    write: Callable[[Path, str], object]
    read: Callable[[Path], str | None]
    named: str  # a pattern
    lines: bool = False  # a file that grows: after a kill its last line may be cut
    quick: bool = True  # one error is tried, not all


def picture(word: str) -> ImageResult:
    image = Image.new("RGB", (4, 4), "red" if word == OLD else "blue")
    return ImageResult(image, None, np.zeros((1, 64), np.float32), 1, {})


def read_picture(path: Path) -> str | None:
    if not path.exists():
        return None
    with Image.open(path) as image:
        return OLD if image.convert("RGB").getpixel((3, 3)) == (255, 0, 0) else NEW


def to_free(folder: Path, word: str) -> None:
    picture(word).save_to_free(iter(folder / f"a{end}.png" for end in FREE))


def read_free(folder: Path) -> str | None:
    """The second picture goes beside the first, which must stay."""
    found = [read_picture(folder / f"a{end}.png") for end in FREE]
    assert found[0] in (None, OLD)
    return next((word for word in reversed(found) if word), None)


def add_line(folder: Path, word: str) -> None:
    append_line(folder / "lines", word)


def read_lines(folder: Path) -> str | None:
    if not (folder / "lines").exists():
        return None
    assert (folder / "lines").read_bytes().startswith(b"old\n")
    return (folder / "lines").read_text().split("\n")[-2]


def choose(folder: Path, word: str) -> None:
    other = folder / "other"
    if not other.exists():
        shutil.copytree(BUNDLED, other, copy_function=os.symlink)
    use_model(BUNDLED if word == OLD else other)


def read_chosen(folder: Path) -> str | None:
    return OLD if find_model(None).folder == BUNDLED else NEW


def pin(folder: Path, word: str) -> None:
    way = Way("onnxruntime", "int8" if word == NEW else None)
    choice.pin(read_manifest(BUNDLED), way)


def read_pinned(folder: Path) -> str | None:
    way = choice._pinned(read_manifest(BUNDLED), "onnxruntime")
    return None if way is None else NEW if way.arithmetic else OLD


def packed(folder: Path) -> PackedStore:
    return PackedStore(folder / "packed", "model", {})


def pack(folder: Path, word: str) -> None:
    (graph := folder / "vit.onnx").write_text(word)
    store = packed(folder)
    store.make(store.key(graph, "1", {}), lambda path: path.write_text(word * 100))


def read_packed(folder: Path) -> str | None:
    """An entry of an older graph goes when the new one is there whole."""
    for word in (NEW, OLD):
        (folder / "vit.onnx").write_text(word)
        store = packed(folder)
        if (entry := store.find(store.key(folder / "vit.onnx", "1", {}))) is not None:
            assert entry.read_text() == word * 100
            return word
    return None


def plan_key(word: str) -> PlanKey:
    return PlanKey("model", "vit", "rtx", word, Target("gpu", "1", "SM89"), BuildSettings({}))


def plan(folder: Path, word: str) -> None:
    PlanStore(folder / "plans").save(plan_key(word), (word * 100).encode())


def read_plan(folder: Path) -> str | None:
    for word in (NEW, OLD):
        if (found := PlanStore(folder / "plans").find(plan_key(word))) is not None:
            assert found.read_text() == word * 100
            return word
    return None


def artefact(weights: str) -> Callable[[Path, str], None]:
    def write(folder: Path, word: str) -> None:
        (folder / "artefacts").mkdir(exist_ok=True)
        WORD[0] = word
        out = folder / "artefacts" / "artefact"
        with warnings.catch_warnings(action="ignore"):
            list(exporting.export(CHECKPOINT[0], out, overwrite=True, verify=False, weights=weights))

    return write


def a_graph(checkpoint: Any, folder: Path, *rest: Any) -> Iterator[Any]:
    """In place of tracing: one file, that says which export it is of."""
    disk.write_by(folder / "vit.onnx", lambda path: path.write_text(WORD[0] * 10))
    yield from ()
    return {}


def read_artefact(folder: Path) -> str | None:
    out = folder / "artefacts" / "artefact"
    if not (out / MANIFEST).exists():
        assert not out.exists()
        return None
    manifest = json.loads((out / MANIFEST).read_text())
    for name, stated in manifest["files"].items():
        assert (out / name).stat().st_size == stated["size"]
    return OLD if (out / "vit.onnx").read_text() == OLD * 10 else NEW


def publish(folder: Path, word: str) -> None:
    """What an export does at its end, without PyTorch, whose threads a copied process lacks."""
    (folder / "artefacts").mkdir(exist_ok=True)
    with publishing(folder / "artefacts" / "artefact", overwrite=True) as partial:
        disk.write_by(partial / "vit.onnx", lambda path: path.write_text(word * 10))
        files = {"vit.onnx": {"size": len(word * 10)}}
        disk.write_whole(partial / MANIFEST, json.dumps({"files": files}).encode())


SCENARIOS = {
    "a picture": Scenario(
        lambda f, word: picture(word).save(f / "a.png"), lambda f: read_picture(f / "a.png"), "a.png"
    ),
    "a picture with the first free name": Scenario(to_free, read_free, "a.png"),
    "a line of results": Scenario(add_line, read_lines, "lines", lines=True),
    "a file of bytes": Scenario(
        lambda f, word: write_bytes(f / "file", word.encode()),
        lambda f: (f / "file").read_text() if (f / "file").exists() else None,
        "file",
    ),
    "the default model": Scenario(choose, read_chosen, "bagel-home"),
    "a pinned way": Scenario(pin, read_pinned, "pinned.json"),
    "packed weights": Scenario(pack, read_packed, "packed"),
    "a plan": Scenario(plan, read_plan, "plans"),
    "a folder": Scenario(publish, read_artefact, "artefact"),
    "an artefact": Scenario(artefact("copy"), read_artefact, "artefact|safetensors", quick=False),
    "an artefact of links": Scenario(artefact("link"), read_artefact, "artefact|safetensors", quick=False),
}
CASES = [
    (name, how) for name, one in SCENARIOS.items() for how in (ERRORS if one.quick else (errno.ENOSPC, errno.EACCES))
]


@pytest.fixture(autouse=True)
def tracing_left_out(monkeypatch, quick_checkpoint):
    monkeypatch.setattr(exporting, "write_graphs", a_graph)
    monkeypatch.setattr(Way, "open", lambda way, manifest: None)
    CHECKPOINT[:] = [quick_checkpoint]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with the old content, made anew for each refused call."""

    def fresh(one: Scenario, number: int) -> Path:
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.setenv("BAGEL_RT_HOME", str(folder / "bagel-home"))
        monkeypatch.setenv("BAGEL_RT_CACHE", str(folder / "bagel-cache"))
        use(monkeypatch, FailingDisk())
        one.write(folder, OLD)
        assert one.read(folder) == OLD
        return folder

    return fresh


def which_calls(one: Scenario, world, monkeypatch) -> list[int]:
    folder, counting = world(one, 10_000), FailingDisk()
    use(monkeypatch, counting)
    one.write(folder, NEW)
    assert one.read(folder) == NEW
    return telling(counting.calls)


def hidden(folder: Path) -> list[str]:
    return [str(p.relative_to(folder)) for p in folder.rglob(".*") if p.name not in (claims.IN_USE, claims.CHANGING)]


@pytest.mark.parametrize("name, how", CASES, ids=lambda v: errno.errorcode.get(v, v) if isinstance(v, int) else v)
def test_every_refused_call_leaves_the_old_or_the_new_and_a_clear_error(name, how, world, monkeypatch):
    one = SCENARIOS[name]
    calls = which_calls(one, world, monkeypatch)
    assert len(calls) >= 3
    for at in calls:
        folder, faulty = world(one, at), FailingDisk(at, how)
        use(monkeypatch, faulty)
        try:
            one.write(folder, NEW)
            left = {NEW}
        except (BagelError, EngineFailure) as error:
            assert re.search(one.named, str(error)), f"call {at}, {faulty.failed}"
            assert os.strerror(how) in str(error) or re.search("read-only|no leave to write", str(error))
            left = {OLD, NEW} if faulty.failed in ("remove", "rename") else {OLD}
        use(monkeypatch, FailingDisk())
        assert one.read(folder) in left, f"call {at}, {faulty.failed}"
        if faulty.failed != "remove":
            assert not hidden(folder), f"call {at}, {faulty.failed}"
        one.write(folder, NEW)
        assert one.read(folder) == NEW


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is copied and killed")
@pytest.mark.parametrize("name", [name for name, one in SCENARIOS.items() if one.quick])
def test_a_kill_at_every_call_leaves_the_old_or_the_new_and_the_next_try_works(name, world, monkeypatch):
    one = SCENARIOS[name]
    for at in which_calls(one, world, monkeypatch):
        folder = world(one, at)
        if (child := os.fork()) == 0:
            use(monkeypatch, FailingDisk(at, "kill"))
            try:
                one.write(folder, NEW)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
        if one.lines:
            assert (folder / "lines").read_text() in ("old\n", "old\nnew\n", "old\nne")
            continue
        assert one.read(folder) in (OLD, NEW)
        one.write(folder, NEW)
        assert one.read(folder) == NEW


def test_a_measured_way_that_cannot_be_kept_is_used_and_said(monkeypatch):
    manifest = read_manifest(BUNDLED)
    monkeypatch.setattr(choice, "offered", lambda *rest: [])
    monkeypatch.setattr(choice, "calibrate", lambda *rest: [])
    monkeypatch.setattr(choice, "fastest", lambda found: type("Fastest", (), {"way": Way("onnxruntime", "int8")}))
    use(monkeypatch, FailingDisk(0, errno.EROFS))
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert choice.measure(manifest).way == Way("onnxruntime", "int8")
    assert choice.kept(manifest) is None


@pytest.mark.parametrize("how", [errno.ENOMEM, errno.EIO])
def test_a_weight_file_that_cannot_be_mapped_is_named(how, monkeypatch):
    use(monkeypatch, FailingDisk(0, how))
    with pytest.raises(ArtefactError, match=rf"weights\.safetensors: cannot be mapped.*{os.strerror(how)}"):
        TokenEmbeddings(read_manifest(BUNDLED))
    use(monkeypatch, FailingDisk(0, how))
    with pytest.raises(EngineFailure, match=r"weights\.safetensors: cannot be mapped"):
        mapped(BUNDLED / "weights.safetensors")

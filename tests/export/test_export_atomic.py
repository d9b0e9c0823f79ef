"""An artefact appears whole or not at all, and nothing existing is lost."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

import bagel_rt
from bagel_engines import claims
from bagel_export.artefact import parity, publish
from bagel_export.artefact.export import export
from bagel_export.quantization import precision
from bagel_rt.artefact.contract import TASK_GRAPHS, graph_specs
from bagel_rt.artefact.manifest import read_manifest


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def unmarked(folder: Path) -> dict[str, str]:
    """Without the mark that an export puts on the artefact it is about to replace, and that a kill leaves there."""
    return {name: digest for name, digest in contents(folder).items() if name != claims.IN_USE}


@pytest.fixture
def quick(quick_checkpoint):
    """Arguments of an export that takes a few seconds."""
    return {"ckpt": quick_checkpoint, "task": "understand", "verify": False}


@pytest.fixture
def old(small_artefact, tmp_path) -> Path:
    """An artefact that is in the way."""
    return Path(shutil.copytree(small_artefact, tmp_path / "place" / "model"))


def test_an_existing_artefact_is_refused_without_overwrite_and_left_as_it_was(quick, old):
    before = contents(old)
    with pytest.raises(bagel_rt.ExportError, match=r"model: an artefact is there already; use --overwrite"):
        list(export(out=old, **quick))
    assert contents(old) == before
    assert os.listdir(old.parent) == ["model"]


def test_overwrite_replaces_the_artefact_and_leaves_nothing_else(quick, old):
    list(export(out=old, overwrite=True, **quick))
    assert read_manifest(old).task == "understand"
    assert os.listdir(old.parent) == ["model"]


def test_overwrite_works_where_folders_cannot_be_exchanged(quick, old, monkeypatch):
    monkeypatch.setattr(publish, "exchange", lambda a, b: False)
    list(export(out=old, overwrite=True, **quick))
    assert read_manifest(old).task == "understand"
    assert os.listdir(old.parent) == ["model"]


def test_an_empty_folder_is_filled(quick, tmp_path):
    (tmp_path / "empty").mkdir()
    list(export(out=tmp_path / "empty", **quick))
    assert read_manifest(tmp_path / "empty").task == "understand"


def test_what_is_no_artefact_is_never_replaced(quick, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for target, words in [("mine", "is not an artefact"), ("file", "is not a folder"), ("no/model", "no such folder")]:
        with pytest.raises(bagel_rt.ExportError, match=words):
            list(export(out=tmp_path / target, overwrite=True, **quick))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine"]


def test_too_little_disk_is_found_out_before_anything_is_written(quick, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(bagel_rt.ExportError, match=r"GiB are needed for the export, 0\.00 GiB are free"):
        list(export(out=tmp_path / "model", **quick))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_error_on_the_way_leaves_the_old_artefact_and_nothing_else(quick, old, monkeypatch, error):
    def fail(*_):
        raise error("half way")

    before = contents(old)
    monkeypatch.setattr("bagel_export.artefact.export._manifest", fail)
    with pytest.raises(error):
        list(export(out=old, overwrite=True, **quick))
    assert contents(old) == before
    assert os.listdir(old.parent) == ["model"]


def test_stopping_to_iterate_leaves_nothing(quick, tmp_path):
    steps = export(out=tmp_path / "model", **quick)
    for event in steps:
        if event.stage == "graphs":
            assert len(list(tmp_path.iterdir())) == 1
            break
    steps.close()
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_is_not_what_the_reference_computes_fails_the_export(quick_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(precision.TOLERANCES, "float32", 0.0)
    with pytest.raises(bagel_rt.ExportError, match=r"graphs differ from the reference.*vit"):
        list(export(quick_checkpoint, tmp_path / "model", "understand"))
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_does_not_fit_in_memory_is_recorded_as_not_verified(quick_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "MEMORY_PER_WEIGHT_BYTE", 1e9)
    list(export(quick_checkpoint, tmp_path / "model", "understand"))
    for graph in read_manifest(tmp_path / "model").graphs.values():
        assert graph["parity"]["status"] == "not verified"
        assert "GiB of memory" in graph["parity"]["reason"]


def start(out: Path, checkpoint: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "bagel_rt.cli", "export", "--ckpt", checkpoint, "--out", out, "--no-verify"]
    return subprocess.Popen([*map(str, command), *more], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def wait_for(condition, child: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition() and child.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


MOMENTS = {
    "the partial folder appears": lambda place: any(place.glob(".model.partial-*")),
    "weights are written": lambda place: any(place.glob(".model.partial-*/weights.safetensors")),
    "the first graph is there": lambda place: any(place.glob(".model.partial-*/vit.onnx")),
    "the last graph is there": lambda place: any(place.glob(".model.partial-*/lm_head.onnx")),
    "the manifest is there": lambda place: any(place.glob(".model.partial-*/bagel_rt.json")),
}


SLOW = {"the partial folder appears", "the first graph is there", "the last graph is there"}


@pytest.mark.parametrize("moment", [pytest.param(m, marks=pytest.mark.slow) if m in SLOW else m for m in MOMENTS])
def test_a_kill_leaves_the_old_artefact_and_at_most_one_hidden_folder_that_the_next_export_removes(
    quick_checkpoint, quick, old, moment
):
    place, before = old.parent, contents(old)
    child = start(old, quick_checkpoint, "--overwrite", "--task", "understand")
    wait_for(lambda: MOMENTS[moment](place), child)
    child.kill()
    child.communicate()
    hidden = [name for name in os.listdir(place) if name != "model"]
    assert len(hidden) <= 1
    assert all(name.startswith(".model.partial-") for name in hidden)
    assert unmarked(old) == before or read_manifest(old).task == "understand"
    list(export(out=old, overwrite=True, **quick))
    assert os.listdir(place) == ["model"]


@pytest.mark.slow
def test_a_kill_just_before_or_after_the_rename_leaves_the_old_artefact_or_the_new_one_whole(quick_checkpoint, old):
    """Around the renames, where a moment cannot be seen from outside: the calls that change names are made to kill."""
    place, before = old.parent, contents(old)
    code = (
        "import os, signal, sys\n"
        "from bagel_export.artefact import publish\n"
        "from bagel_export.artefact.export import export\n"
        "die, at, replace = lambda: os.kill(os.getpid(), signal.SIGKILL), sys.argv[3], publish._replace\n"
        "exchange = publish.exchange\n"
        "def exchange_or_die(new, out):\n"
        "    if at == 'marked': die()\n"
        "    return exchange(new, out)\n"
        "publish.exchange = exchange_or_die\n"
        "def replace_and_die(new, out, overwrite):\n"
        "    if at == 'before': die()\n"
        "    replace(new, out, overwrite)\n"
        "    if at == 'after': die()\n"
        "publish._replace = replace_and_die\n"
        "for _ in export(sys.argv[1], sys.argv[2], 'understand', overwrite=True, verify=False): pass\n"
    )
    for at, state in (("before", "old"), ("marked", "old"), ("after", "new")):
        done = subprocess.run([sys.executable, "-c", code, quick_checkpoint, old, at], capture_output=True, timeout=120)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert len(os.listdir(place)) == 2
        assert (unmarked(old) == before) == (state == "old")
        assert (claims.IN_USE in contents(old)) == (at != "before")
        assert read_manifest(old).task == ("full" if state == "old" else "understand")
    steps = export(quick_checkpoint, old, overwrite=True)
    next(steps)
    steps.close()
    assert [p.name for p in place.iterdir()] == [old.name]


def test_a_link_in_the_targets_place_is_refused(quick, old):
    place, before = old.parent, contents(old)
    (place / "link").symlink_to(old)
    (place / "dangling").symlink_to(place / "nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(bagel_rt.ExportError, match="not a folder"):
            list(export(out=place / name, overwrite=True, **quick))
    assert contents(old) == before
    assert sorted(os.listdir(place)) == ["dangling", "link", "model"]


def test_a_bad_checkpoint_leaves_the_old_artefact(quick_checkpoint, old, tmp_path):
    before = contents(old)
    broken = shutil.copytree(quick_checkpoint, tmp_path / "broken", copy_function=os.link)
    (broken / "vit_config.json").unlink()
    with pytest.raises(bagel_rt.CheckpointError):
        list(export(broken, old, overwrite=True))
    assert contents(old) == before
    assert os.listdir(old.parent) == ["model"]


def test_a_killed_first_export_leaves_no_artefact(quick_checkpoint, tmp_path):
    (tmp_path / "place").mkdir()
    child = start(tmp_path / "place" / "model", quick_checkpoint)
    wait_for(lambda: any((tmp_path / "place").glob(".model.partial-*/weights.safetensors")), child)
    child.kill()
    child.communicate()
    assert not (tmp_path / "place" / "model").exists()


def test_ctrl_c_leaves_the_old_artefact_and_no_hidden_folder(quick_checkpoint, old):
    before = contents(old)
    child = start(old, quick_checkpoint, "--overwrite")
    wait_for(lambda: any(old.parent.glob(".model.partial-*/weights.safetensors")), child)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert b"Traceback" not in err
    assert contents(old) == before
    assert os.listdir(old.parent) == ["model"]


def test_of_hidden_folders_only_those_that_nobody_can_be_writing_are_removed(tmp_path):
    mine, dead, abroad, unmarked, old = (tmp_path / f".model.partial-{n}" for n in range(5))
    for folder in (mine, dead, abroad, unmarked, old):
        folder.mkdir()
    (abroad / claims.IN_USE).write_bytes(b"another machine\n")
    os.utime(old, (1, 1))
    claims.claim(dead).close()
    with claims.claim(mine):
        publish.remove_leftovers(tmp_path / "model")
        assert sorted(tmp_path.iterdir()) == [mine, abroad, unmarked]
    publish.remove_leftovers(tmp_path / "model")
    assert sorted(tmp_path.iterdir()) == [abroad, unmarked]


def artefact_in(folder: Path, name: str) -> None:
    (folder / "bagel_rt.json").write_text(name)


def test_of_two_exports_at_once_the_first_stays_and_the_second_is_told(tmp_path):
    out = tmp_path / "model"
    with pytest.raises(bagel_rt.ExportError, match="an artefact is there already") as told:
        with publish.publishing(out) as second:
            artefact_in(second, "second")
            with publish.publishing(out) as first:
                artefact_in(first, "first")
    assert told.value.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (out / "bagel_rt.json").read_text() == "first"
    assert [p.name for p in out.iterdir()] == ["bagel_rt.json"]


@pytest.mark.parametrize("exchanged", [True, False])
def test_of_two_exports_with_overwrite_the_last_stays_whole(tmp_path, monkeypatch, exchanged):
    if not exchanged:
        monkeypatch.setattr(publish, "exchange", lambda a, b: False)
    out = tmp_path / "model"
    with publish.publishing(out, overwrite=True) as last:
        artefact_in(last, "last")
        with publish.publishing(out, overwrite=True) as first:
            artefact_in(first, "first")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (out / "bagel_rt.json").read_text() == "last"


def test_what_came_into_the_targets_place_during_an_export_and_is_no_artefact_is_never_replaced(tmp_path):
    out = tmp_path / "model"
    with pytest.raises(bagel_rt.ExportError, match="is not an artefact"):
        with publish.publishing(out, overwrite=True) as folder:
            artefact_in(folder, "new")
            out.mkdir()
            (out / "thesis.txt").write_text("years of work")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (out / "thesis.txt").read_text() == "years of work"


def test_the_manifest_lists_every_file_with_its_size_and_hash(golden_artefact):
    stated = read_manifest(golden_artefact).files
    on_disk = {p.name for p in golden_artefact.iterdir()} - {"bagel_rt.json"}
    assert set(stated) == on_disk
    for name, entry in stated.items():
        data = (golden_artefact / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])


def test_the_manifest_says_what_made_it_and_how_close_every_graph_is(golden_artefact):
    raw = json.loads((golden_artefact / "bagel_rt.json").read_text())
    assert isinstance(raw["format_version"], int)
    assert {"torch", "onnx", "onnxscript", "transformers", "bagel-rt"} <= set(raw["exporter"])
    for entry in raw["graphs"].values():
        assert entry["parity"]["status"] == "verified"
        assert 0 < entry["parity"]["relative_l2"] < 1e-5


@pytest.mark.parametrize("name", TASK_GRAPHS["full"])
def test_the_graph_speaks_the_contract_in_standard_operators(golden_artefact, name):
    manifest = read_manifest(golden_artefact)
    model = onnx.load(str(manifest.graph_file(name)), load_external_data=False)
    assert {(o.domain, o.version) for o in model.opset_import} == {("", 24)}
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    spec = graph_specs(manifest.model)[name]
    types = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64, "bool": onnx.TensorProto.BOOL}
    for found, stated in ((model.graph.input, spec.inputs), (model.graph.output, spec.outputs)):
        shapes = [
            (
                v.name,
                v.type.tensor_type.elem_type,
                tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim),
            )
            for v in found
        ]
        assert shapes == [(t.name, types[t.dtype], t.shape) for t in stated]
    listed = manifest.graphs[name]
    assert [tuple(t["shape"]) for t in listed["inputs"]] == [t.shape for t in spec.inputs]

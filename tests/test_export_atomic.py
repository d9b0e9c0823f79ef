"""An artefact appears whole or not at all, and what it says about itself is true."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import bagel_rt
from bagel_export import artefact, parity
from bagel_export.artefact import export
from bagel_rt.contract import TASK_GRAPHS, ModelDims, graph_specs
from bagel_rt.errors import CheckpointError, ExportError
from bagel_rt.manifest import read_manifest

MANIFEST, WEIGHTS = "bagel_rt.json", "weights.safetensors"
COMMAND = (sys.executable, "-m", "bagel_rt.cli", "export", "--task", "understand", "--no-verify")


@pytest.fixture
def outs(tmp_path) -> Path:
    folder = tmp_path / "outs"
    folder.mkdir()
    return folder


@pytest.fixture
def old(small_artefact, outs) -> Path:
    """An artefact that is there already."""
    return shutil.copytree(small_artefact, outs / "artefact")


def run(checkpoint: Path, out: Path, **options) -> None:
    for _ in export(checkpoint, out, **options):
        pass


def contents(folder: Path) -> dict[str, str]:
    """Every file below, by its hash; folders too."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for p in sorted(folder.rglob("*"))
    }


def hidden(outs: Path) -> list[str]:
    return [p.name for p in outs.iterdir() if p.name.startswith(".")]


# Refused before anything is written


def test_an_artefact_that_is_there_is_refused_and_untouched(small_checkpoint, outs, old):
    before = contents(outs)
    with pytest.raises(ExportError, match="--overwrite") as caught:
        run(small_checkpoint, old)
    assert str(old) in str(caught.value)
    assert caught.value.exit_code == 2
    assert contents(outs) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_artefact_is_refused_even_with_overwrite(small_checkpoint, outs, overwrite):
    (outs / "holiday").mkdir()
    (outs / "holiday" / "photo.png").write_bytes(b"dear to me")
    before = contents(outs)
    with pytest.raises(ExportError, match="not an artefact"):
        run(small_checkpoint, outs / "holiday", overwrite=overwrite)
    assert contents(outs) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_or_link_in_the_targets_place_is_refused(small_checkpoint, outs, old, overwrite):
    (outs / "file").write_bytes(b"dear to me")
    (outs / "link").symlink_to(old)
    (outs / "dangling").symlink_to(outs / "nowhere")
    before = contents(outs)
    for name in ("file", "link", "dangling"):
        with pytest.raises(ExportError, match="not a folder"):
            run(small_checkpoint, outs / name, overwrite=overwrite)
    assert contents(outs) == before


def test_a_missing_parent_folder_is_refused_and_not_made(small_checkpoint, outs):
    with pytest.raises(ExportError, match="no such folder") as caught:
        run(small_checkpoint, outs / "missing" / "artefact")
    assert str(outs / "missing") in str(caught.value)
    assert list(outs.iterdir()) == []


def test_too_little_disk_is_found_out_before_writing(small_checkpoint, outs, monkeypatch):
    weights = sum(p.stat().st_size for p in small_checkpoint.glob("*.safetensors"))
    usage = shutil.disk_usage(outs)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=weights))  # the graphs need room too
    monkeypatch.setattr(artefact, "publishing", lambda _: pytest.fail("writing began"))
    with pytest.raises(ExportError, match=r"GiB are needed .* GiB are free") as caught:
        run(small_checkpoint, outs / "artefact")
    assert str(outs) in str(caught.value)
    assert list(outs.iterdir()) == []


# An export that fails


def test_an_error_in_the_middle_leaves_the_old_artefact_and_no_partial_folder(small_checkpoint, outs, old, monkeypatch):
    before, seen = contents(outs), []

    def fails(*_):
        seen.append(hidden(outs))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artefact.onnx_graph, "finish", fails)
    with pytest.raises(OSError, match="No space left"):
        run(small_checkpoint, old, task="understand", overwrite=True)
    assert [len(names) for names in seen] == [1]  # it was writing, hidden
    assert contents(outs) == before


def test_an_error_in_the_middle_of_a_first_export_leaves_nothing(small_checkpoint, outs, monkeypatch):
    monkeypatch.setattr(artefact, "_files", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(small_checkpoint, outs / "artefact", task="understand", verify=False)
    assert list(outs.iterdir()) == []


def test_an_export_that_its_caller_gives_up_leaves_nothing(small_checkpoint, outs):
    steps = export(small_checkpoint, outs / "artefact")
    while next(steps).stage != "graphs":
        assert len(hidden(outs)) == 1
    steps.close()
    assert list(outs.iterdir()) == []


def test_a_graph_that_differs_from_the_reference_fails_the_export(small_checkpoint, outs, old, monkeypatch):
    before = contents(outs)
    monkeypatch.setattr(parity, "TOLERANCE", 0.0)
    with pytest.raises(ExportError, match="differ from the reference") as caught:
        run(small_checkpoint, old, task="understand", overwrite=True)
    assert "lm_head" in str(caught.value)
    assert contents(outs) == before


def test_a_bad_checkpoint_leaves_the_old_artefact(small_checkpoint, outs, old, tmp_path):
    broken = shutil.copytree(small_checkpoint, tmp_path / "broken", copy_function=os.link)
    (broken / "vit_config.json").unlink()
    before = contents(outs)
    with pytest.raises(CheckpointError):
        run(broken, old, overwrite=True)
    assert contents(outs) == before


# An export that is killed


def start(checkpoint: Path, out: Path, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, "--ckpt", checkpoint, "--out", out, *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_file(process: subprocess.Popen, outs: Path, name: str) -> None:
    """Until the running export has written `name` (a folder's name: the hidden folder itself)."""
    end = time.monotonic() + 120
    while not list(outs.glob(f".*.partial-*/{name}")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.002)


def kill(process: subprocess.Popen, by: signal.Signals) -> str:
    process.send_signal(by)
    return process.communicate(timeout=60)[1]


MOMENTS = [("", 0.0), ("weights.safetensors", 0.0), ("vit.onnx", 0.0), ("vit.onnx", 0.7)]


@pytest.mark.parametrize("file, delay", MOMENTS)
def test_a_killed_export_leaves_the_old_artefact_and_a_folder_that_the_next_one_removes(
    small_checkpoint, outs, old, file, delay
):
    before = contents(old)
    process = start(small_checkpoint, old, "--overwrite")
    wait_for_file(process, outs, file)
    time.sleep(delay)
    kill(process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert contents(old) == before
    left = hidden(outs)
    assert len(left) <= 1
    assert sorted(p.name for p in outs.iterdir()) == sorted([*left, old.name])
    steps = export(small_checkpoint, old, task="understand", overwrite=True)
    next(steps)
    assert not set(left) & set(hidden(outs))
    steps.close()
    assert [p.name for p in outs.iterdir()] == [old.name]
    assert contents(old) == before


def test_an_export_killed_at_any_moment_leaves_the_old_artefact_or_the_new_one_whole(small_checkpoint, outs, old):
    """Around the renames, where a moment cannot be seen from outside: the calls that change names are made to kill."""
    before = contents(old)
    code = (
        "import os, signal, sys\n"
        "from bagel_export import publish\n"
        "from bagel_export.artefact import export\n"
        "die, at, replace = lambda: os.kill(os.getpid(), signal.SIGKILL), sys.argv[3], publish._replace\n"
        "def replace_and_die(new, out):\n"
        "    if at == 'before': die()\n"
        "    replace(new, out)\n"
        "    if at == 'after': die()\n"
        "publish._replace = replace_and_die\n"
        "for _ in export(sys.argv[1], sys.argv[2], 'understand', overwrite=True, verify=False): pass\n"
    )
    for at, state in (("before", "old"), ("after", "new")):
        done = subprocess.run([sys.executable, "-c", code, small_checkpoint, old, at], capture_output=True, timeout=120)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert len(hidden(outs)) == 1
        assert (contents(old) == before) == (state == "old")
        assert read_manifest(old).task == ("full" if state == "old" else "understand")
    steps = export(small_checkpoint, old, overwrite=True)
    next(steps)
    steps.close()
    assert [p.name for p in outs.iterdir()] == [old.name]


def test_a_killed_first_export_leaves_nothing_but_a_hidden_folder(small_checkpoint, outs):
    process = start(small_checkpoint, outs / "artefact")
    wait_for_file(process, outs, "vit.onnx")
    kill(process, signal.SIGKILL)
    assert len(list(outs.iterdir())) == len(hidden(outs)) == 1


@pytest.mark.parametrize("file", ["", "vit.onnx"])
def test_ctrl_c_leaves_nothing_and_says_so_in_one_line(small_checkpoint, outs, file):
    process = start(small_checkpoint, outs / "artefact")
    wait_for_file(process, outs, file)
    said = kill(process, signal.SIGINT)
    assert process.returncode == 1
    assert said.strip().splitlines()[-1] == "bagel-rt: interrupted"
    assert "Traceback" not in said
    assert list(outs.iterdir()) == []


def test_the_folder_of_an_export_that_is_running_is_left_alone(small_checkpoint, outs):
    process = start(small_checkpoint, outs / "artefact")
    wait_for_file(process, outs, "weights.safetensors")
    steps = export(small_checkpoint, outs / "artefact")
    next(steps)
    assert len(hidden(outs)) == 2
    steps.close()
    assert len(hidden(outs)) == 1
    kill(process, signal.SIGINT)
    assert hidden(outs) == []


# What an artefact says about itself


def test_overwriting_replaces_the_artefact_whole(small_checkpoint, outs, old):
    (old / "notes.txt").write_text("of the old one")
    run(small_checkpoint, old, task="understand", overwrite=True, verify=False)
    assert [p.name for p in outs.iterdir()] == [old.name]
    stated = json.loads((old / MANIFEST).read_text())
    assert sorted(p.name for p in old.iterdir()) == sorted([*stated["files"], MANIFEST])


def test_an_empty_folder_may_be_the_target(small_checkpoint, outs):
    (outs / "artefact").mkdir()
    run(small_checkpoint, outs / "artefact", task="understand", verify=False)
    assert read_manifest(outs / "artefact").task == "understand"


def test_the_manifest_lists_every_file_with_its_size_and_hash(small_artefact):
    stated = json.loads((small_artefact / MANIFEST).read_text())["files"]
    found = {
        p.name: {"size": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in small_artefact.iterdir()
        if p.name != MANIFEST
    }
    assert stated == found


def test_the_manifest_states_versions_and_what_was_not_verified(small_artefact):
    stated = json.loads((small_artefact / MANIFEST).read_text())
    assert type(stated["format_version"]) is int
    assert {"bagel-rt", "torch", "onnx", "onnxscript"} <= set(stated["exporter"])
    for entry in stated["graphs"].values():
        assert entry["parity"]["status"] == "not verified"
        assert "--no-verify" in entry["parity"]["reason"]


def test_a_graph_that_does_not_fit_in_memory_is_not_verified_and_the_reason_is_stated(
    small_checkpoint, outs, monkeypatch
):
    class NoMemory:
        available = 1 << 20

    monkeypatch.setattr(parity.psutil, "virtual_memory", NoMemory)
    run(small_checkpoint, outs / "artefact", task="understand")
    stated = json.loads((outs / "artefact" / MANIFEST).read_text())
    for entry in stated["graphs"].values():
        assert entry["parity"]["status"] == "not verified"
        assert "GiB are free" in entry["parity"]["reason"]


def weight_header(folder: Path) -> tuple[int, dict]:
    with (folder / WEIGHTS).open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return 8 + length, header


def test_every_weight_is_stored_once(small_artefact):
    start, header = weight_header(small_artefact)
    sizes = [4 * int(np.prod(entry["shape"])) for entry in header.values()]
    assert (small_artefact / WEIGHTS).stat().st_size == start + sum(sizes)
    spans = sorted(entry["data_offsets"] for entry in header.values())
    assert spans[0][0] == 0
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))


def graph_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.onnx"))


def test_graph_files_hold_no_weights(small_artefact):
    start, header = weight_header(small_artefact)
    places = {(start + e["data_offsets"][0], e["data_offsets"][1] - e["data_offsets"][0]) for e in header.values()}
    read = set()
    for path in graph_paths(small_artefact):
        assert path.stat().st_size < 200_000
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                stated = {entry.key: entry.value for entry in tensor.external_data}
                assert stated["location"] == WEIGHTS
                read.add((int(stated["offset"]), int(stated["length"])))
            else:
                assert int(np.prod(tensor.dims)) <= 256, tensor.name
    assert read <= places
    # the runtime reads the embedding table itself; every other tensor is some graph's
    embeddings = json.loads((small_artefact / MANIFEST).read_text())["embeddings"]
    assert {offset for offset, _ in places - read} == {embeddings["offset"]}


def test_graphs_are_standard_onnx_of_opset_24(small_artefact):
    assert {p.stem for p in graph_paths(small_artefact)} == set(TASK_GRAPHS["full"])
    for path in graph_paths(small_artefact):
        model = onnx.load(path, load_external_data=False)
        assert {o.domain: o.version for o in model.opset_import if o.domain in ("", "ai.onnx")} in (
            {"": 24},
            {"ai.onnx": 24},
        )
        assert len(model.functions) == 0
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        onnx.checker.check_model(str(path))


def signature(values) -> list[tuple]:
    def described(value) -> tuple:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        return value.name, dtype, tuple(d.dim_param or d.dim_value for d in kind.shape.dim)

    return [described(value) for value in values]


def test_graphs_have_the_contracts_names_types_and_dimensions(small_artefact):
    stated = json.loads((small_artefact / MANIFEST).read_text())
    specs = graph_specs(ModelDims(**stated["model"]))
    for path in graph_paths(small_artefact):
        graph, spec = onnx.load(path, load_external_data=False).graph, specs[path.stem]
        wanted = [[(t.name, t.dtype, t.shape) for t in tensors] for tensors in (spec.inputs, spec.outputs)]
        assert [signature(graph.input), signature(graph.output)] == wanted
        entry = stated["graphs"][path.stem]
        assert [
            [(t["name"], t["dtype"], tuple(t["shape"])) for t in entry[side]] for side in ("inputs", "outputs")
        ] == wanted


def test_an_artefact_can_be_moved(small_artefact, tmp_path):
    moved = shutil.copytree(small_artefact, tmp_path / "elsewhere")
    with bagel_rt.load(moved, backend="onnxruntime") as bagel:
        assert bagel.generate("x", height=32, width=32, num_timesteps=2, seed=1).image.size == (32, 32)

"""ONNX Runtime's packed weights on disk: the same results, no memory of their own, and never the wrong ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calls import FAST

import bagel_rt
from bagel_engines import EngineFailure, open_engine
from bagel_engines.onnxruntime import packed_weights
from bagel_engines.onnxruntime.packed_weights import GRAPH, RECORD, WEIGHTS
from bagel_engines.onnxruntime.quantised_weights import PLAIN
from bagel_export.artefact.export import export
from bagel_export.checkpoint.synthetic import Shape, write_checkpoint
from bagel_rt.artefact.contract import GEN_STEP, LM_HEAD, UND_STEP
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.tensorrt.stores import packed_for

HELD = """
import json, sys
import bagel_rt
import onnx  # which takes 10 MiB itself
import re
from pathlib import Path
from bagel_engines.host_memory import trim
def anonymous_bytes():
    trim()  # what was freed, and the C library keeps for later, is 1 to 4 MB by chance: it is not what a session holds
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
model, arithmetic, *how = sys.argv[1:]
chosen = {"threads": 1, "low_memory": True, "packed_weights": bool(how), "arithmetic": arithmetic}
with bagel_rt.load(model, "onnxruntime", **chosen) as bagel:
    before = anonymous_bytes()
    for graph in ("gen_step", "und_step"):
        bagel.graphs.open(graph)
    print(json.dumps(anonymous_bytes() - before))
"""


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def artefact(request, quick_checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / request.param
    for _ in export(quick_checkpoint, out, verify=False, precision=request.param):
        pass
    return out


def entries(artefact: Path) -> dict[str, float]:
    """Each entry's name, and when it was made."""
    folder = packed_for(read_manifest(artefact)).folder
    return {e.name: (e / RECORD).stat().st_mtime_ns for e in folder.iterdir()} if folder.is_dir() else {}


def load(artefact: Path, **how):
    return bagel_rt.load(artefact, "onnxruntime", packed_weights=True, **how)


def test_results_are_the_same_to_the_last_bit_when_packing_and_when_packed(artefact, photo, monkeypatch):
    with bagel_rt.load(artefact, "onnxruntime") as plain:
        wanted = plain.edit(photo, "green", seed=1, num_timesteps=3)
        answer = plain.ask("what?", photo, max_tokens=8)
    made = []
    for _ in range(2):
        with load(artefact) as bagel:
            got = bagel.edit(photo, "green", seed=1, num_timesteps=3)
            assert np.array_equal(got.latent, wanted.latent)
            assert np.array_equal(np.asarray(got.image), np.asarray(wanted.image))
            assert bagel.ask("what?", photo, max_tokens=8).token_ids == answer.token_ids
        made.append(entries(artefact))
    assert made[0] == made[1]
    assert len(made[0]) == 7  # every graph but und_step, whose weights gen_step has


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_mapped_weights_take_no_anonymous_memory(tmp_path, precision):
    shape = Shape().with_llm(hidden_size=512, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=4)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", shape)
    list(export(checkpoint, tmp_path / "model", verify=False, precision=precision))
    sizes = read_manifest(tmp_path / "model").graphs
    weights = sum(sizes[name]["weight_bytes"] for name in (GEN_STEP, UND_STEP))

    def held(*how: str) -> int:
        arithmetic = "int8" if precision == "int8" else "float32"
        command = [sys.executable, "-c", HELD, str(tmp_path / "model"), arithmetic, *how]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert held() > 0.7 * weights
    held("packed")  # makes them
    assert held("packed") < 0.15 * weights


def test_an_entry_is_made_again_where_anything_differs(small_artefact, monkeypatch):
    with load(small_artefact) as bagel:
        bagel.graphs.open(LM_HEAD)
    (first,) = entries(small_artefact)
    monkeypatch.setattr(packed_weights, "processor", lambda: "another")
    with load(small_artefact) as bagel:
        bagel.graphs.open(LM_HEAD)
    (second,) = entries(small_artefact)  # the first one is gone
    assert first != second


def test_the_key_depends_on_graph_weights_version_processor_and_settings(small_artefact, tmp_path):
    store = packed_for(read_manifest(small_artefact))
    path = tmp_path / "lm_head.onnx"
    path.write_bytes(b"one")
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"w")
    key = store.key(path, "1", PLAIN)
    assert key == store.key(path, "1", PLAIN)
    names = {key.name, store.key(path, "2", PLAIN).name, store.key(path, "1", {}).name}
    names.add(replace(store, model="other").key(path, "1", PLAIN).name)
    path.write_bytes(b"two")
    names.add(store.key(path, "1", PLAIN).name)
    os.utime(weights, ns=(1, 1))
    names.add(store.key(path, "1", PLAIN).name)
    assert len(names) == 6


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / WEIGHTS).unlink(),
        lambda entry: (entry / WEIGHTS).write_bytes(b"short"),
        lambda entry: (entry / RECORD).write_text("{"),
        lambda entry: (entry / RECORD).unlink(),
        lambda entry: (entry / GRAPH).write_bytes(b"no graph"),
    ],
)
def test_a_damaged_entry_is_made_again(small_artefact, damage):
    rows = {"und_out": np.ones((2, 64), np.float32)}
    with load(small_artefact) as bagel:
        wanted = bagel.graphs(LM_HEAD, **rows)[0]
    (entry,) = packed_for(read_manifest(small_artefact)).folder.iterdir()
    damage(entry)
    with load(small_artefact) as bagel:
        assert np.array_equal(bagel.graphs(LM_HEAD, **rows)[0], wanted)
    assert json.loads((entry / RECORD).read_text())["files"][WEIGHTS][0] > 1000


def test_an_entry_that_the_engine_refuses_is_made_again(small_artefact):
    with load(small_artefact) as bagel:
        bagel.graphs.open(LM_HEAD)
    (entry,) = packed_for(read_manifest(small_artefact)).folder.iterdir()
    (entry / GRAPH).write_bytes(b"no graph")
    record = json.loads((entry / RECORD).read_text())
    record["files"] = packed_weights._files(entry)  # as if it had been written so
    (entry / RECORD).write_text(json.dumps(record))
    with load(small_artefact) as bagel:
        assert np.isfinite(bagel.graphs(LM_HEAD, und_out=np.ones((2, 64), np.float32))[0]).all()


def test_a_packing_that_fails_leaves_nothing(small_artefact, tmp_path):
    store = replace(packed_for(read_manifest(small_artefact)), folder=tmp_path / "store")
    key = store.key(small_artefact / "lm_head.onnx", "1", PLAIN)

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise EngineFailure("interrupted")

    with pytest.raises(EngineFailure, match="interrupted"):
        store.make(key, fail)
    assert not list(store.folder.iterdir())


def make_file(store, key, text: str) -> Path:
    return store.make(key, lambda path: path.write_text(text))


def test_of_two_packings_at_once_the_first_stays_and_the_second_uses_it(small_artefact, tmp_path):
    store = replace(packed_for(read_manifest(small_artefact)), folder=tmp_path / "store")
    key = store.key(small_artefact / "lm_head.onnx", "1", {})

    def second(path: Path) -> None:
        make_file(store, key, "first")
        path.write_text("second")

    assert store.opened(key, Path.read_text, second) == "first"
    assert [e.name for e in store.folder.iterdir()] == [key.name]


def test_an_entry_that_is_being_read_is_not_removed_for_a_newer_one(small_artefact, tmp_path):
    store = replace(packed_for(read_manifest(small_artefact)), folder=tmp_path / "store")
    old, new = (store.key(small_artefact / "lm_head.onnx", version, {}) for version in "12")
    make_file(store, old, "old")

    def read(path: Path) -> str:
        make_file(store, new, "new")
        return path.read_text()

    assert store.opened(old, read, lambda path: None) == "old"
    make_file(store, replace(new, version="3"), "newest")
    assert len(list(store.folder.iterdir())) == 1


def test_too_little_room_on_the_disk_is_said_before_any_work(small_artefact, tmp_path):
    store = replace(packed_for(read_manifest(small_artefact)), folder=tmp_path, sizes={"lm_head": 1 << 60})
    key = store.key(small_artefact / "lm_head.onnx", "1", PLAIN)
    with pytest.raises(EngineFailure, match="GiB are free; make room, set BAGEL_RT_CACHE"):
        store.make(key, lambda path: path.write_bytes(b""))


def test_packed_weights_are_refused_where_no_engine_has_them(small_artefact):
    with pytest.raises(bagel_rt.EngineUnavailableError, match="packed weights are onnxruntime's on the CPU"):
        bagel_rt.load(small_artefact, "openvino", packed_weights=True)
    assert open_engine("onnxruntime").info.name == "onnxruntime"


def test_the_command_line_packs_in_the_folder_that_was_named(model, tmp_path, monkeypatch):
    from bagel_rt.cli import main

    monkeypatch.setenv("BAGEL_RT_CACHE", str(tmp_path / "there"))
    monkeypatch.chdir(tmp_path)
    size = [f"--{name.replace('_', '-')}={value}" for name, value in FAST.items()]
    assert main(["generate", "--prompt", "a", "--backend", "onnxruntime", "--packed-weights", *size]) == 0
    assert list((tmp_path / "there" / "packed").rglob(GRAPH))

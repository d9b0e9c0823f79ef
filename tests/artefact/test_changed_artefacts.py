"""An open model and its folder: moved away from, replaced, removed, or made of links."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from calls import FAST, same

import bagel_rt
from bagel_engines import onnx_files
from bagel_engines.onnxruntime.device_engine import on_host
from bagel_rt.artefact.manifest import read_manifest

ENGINES = ("onnxruntime", "openvino")


@pytest.fixture
def folder(small_artefact, tmp_path) -> Path:
    """An artefact of one's own."""
    return Path(shutil.copytree(small_artefact, tmp_path / "place" / "model"))


@pytest.mark.parametrize("how", [{}, {"low_memory": True}])
@pytest.mark.parametrize("engine", ENGINES)
def test_another_working_folder_changes_nothing_for_an_open_model(folder, photo, monkeypatch, tmp_path, engine, how):
    monkeypatch.chdir(folder.parent)
    with bagel_rt.load("model", engine, **how) as bagel:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert bagel.ask("what?", photo, max_tokens=3).token_ids
        first = bagel.edit(photo, "green", seed=1, **FAST)
        assert same(bagel.edit(photo, "green", seed=1, **FAST), first)


def test_a_link_to_the_artefact_that_is_set_anew_changes_nothing_for_an_open_model(folder, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(folder)
    with bagel_rt.load(link, "onnxruntime") as bagel:
        link.unlink()
        assert bagel.ask("what?", max_tokens=3).token_ids


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_open_goes_on_when_the_folder_is_removed_and_what_is_needed_of_it_is_named(folder, photo, engine):
    with bagel_rt.load(folder, engine) as bagel:
        session = bagel.session(seed=1)
        session.add_text("hello")
        first, answer = bagel.generate("a ring", seed=1, **FAST), bagel.ask("what?", seed=1, max_tokens=3)
        shutil.rmtree(folder)
        assert same(bagel.generate("a ring", seed=1, **FAST), first)
        assert session.generate_text(max_tokens=3).token_ids
        assert bagel.ask("what?", seed=1, max_tokens=3) == answer
        with pytest.raises(bagel_rt.ArtefactError, match=r"removed since the model was loaded.*load the model again"):
            bagel.ask("what?", photo)
        assert same(bagel.generate("a ring", seed=1, **FAST), first)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_of_another_artefact_in_the_same_place_is_never_opened(folder, photo, engine):
    with bagel_rt.load(folder, engine) as bagel:
        assert bagel.ask("what?", max_tokens=3).token_ids
        new = Path(shutil.copytree(folder, folder.with_name("new"), copy_function=shutil.copyfile))
        folder.rename(folder.with_name("old"))
        new.rename(folder)
        with pytest.raises(bagel_rt.ArtefactError, match="replaced or changed since the model was loaded"):
            bagel.ask("what?", photo)
    with bagel_rt.load(folder, engine) as bagel:
        assert bagel.ask("what?", photo, max_tokens=3).token_ids


def test_a_folder_that_is_replaced_while_a_graph_is_being_opened_is_noticed(folder, photo, monkeypatch):
    with bagel_rt.load(folder, "onnxruntime") as bagel:
        load = bagel.graphs.engine.load

        def replaced(graph, prime=None):
            os.utime(folder / "weights.safetensors", ns=(1, 1))
            return load(graph, prime)

        monkeypatch.setattr(bagel.graphs.engine, "load", replaced)
        with pytest.raises(bagel_rt.ArtefactError, match=r"weights\.safetensors: replaced or changed"):
            bagel.ask("what?", photo)
        assert not bagel.graphs.opened


def test_memory_lent_for_one_use_is_refused_when_the_folder_was_replaced(folder, photo):
    with bagel_rt.load(folder, "onnxruntime", low_memory=True) as bagel:
        assert bagel.ask("what?", photo, max_tokens=3).token_ids
        os.utime(folder / "vit.onnx", ns=(1, 1))
        with pytest.raises(bagel_rt.ArtefactError, match=r"vit\.onnx: replaced or changed"):
            bagel.ask("what?", photo, max_tokens=3)


def snapshot(artefact: Path, place: Path) -> Path:
    """The artefact as a download cache keeps it: a folder of links to files that are named by their hashes."""
    (place / "blobs").mkdir(parents=True)
    (place / "snapshots" / "1").mkdir(parents=True)
    for number, file in enumerate(sorted(artefact.iterdir())):
        shutil.copy(file, place / "blobs" / f"{number:064x}")
        (place / "snapshots" / "1" / file.name).symlink_to(f"../../blobs/{number:064x}")
    return place / "snapshots" / "1"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_folder_of_links_gives_the_same_results_as_the_files_they_lead_to(small_artefact, photo, tmp_path, engine):
    links, made = snapshot(small_artefact, tmp_path / "hub"), []
    for place in (small_artefact, links):
        with bagel_rt.load(place, engine) as bagel:
            answer = bagel.ask("what?", photo, seed=1, max_tokens=3)
            made.append((bagel.edit(photo, "green", seed=1, **FAST), answer))
    assert same(made[0][0], made[1][0])
    assert made[0][1] == made[1][1]


def test_packed_weights_are_made_of_a_folder_of_links(small_artefact, tmp_path):
    with bagel_rt.load(small_artefact, "onnxruntime") as bagel:
        wanted = bagel.generate("a ring", seed=1, **FAST)
    links = snapshot(small_artefact, tmp_path / "hub")
    for _ in range(2):
        with bagel_rt.load(links, "onnxruntime", packed_weights=True) as bagel:
            assert same(bagel.generate("a ring", seed=1, **FAST), wanted)


def test_a_device_engine_reads_a_folder_of_links(small_artefact, tmp_path):
    rows = {"und_out": np.ones((2, 64), np.float32)}
    found = [
        on_host().load(folder / "lm_head.onnx").run(rows, ["logits"])["logits"]
        for folder in (small_artefact, snapshot(small_artefact, tmp_path / "hub"))
    ]
    assert np.array_equal(*found)


def test_single_weights_are_read_from_behind_links(small_artefact, tmp_path):
    links = snapshot(small_artefact, tmp_path / "hub")
    stated = onnx.load(str(links / "lm_head.onnx"), load_external_data=False).graph.initializer
    assert any(tensor.external_data for tensor in stated)
    for tensor in stated:
        wanted = onnx.numpy_helper.to_array(tensor, base_dir=str(small_artefact))
        assert np.array_equal(onnx_files.values_of(tensor, links), wanted)


@pytest.mark.parametrize("engine", ENGINES)
def test_links_without_the_package_that_reads_graphs_are_refused_with_what_to_install(
    small_artefact, tmp_path, monkeypatch, engine
):
    monkeypatch.setattr(onnx_files, "readable", lambda: False)
    with bagel_rt.load(snapshot(small_artefact, tmp_path / "hub"), engine) as bagel:
        if engine == "onnxruntime":
            bagel.graphs.engine._rewritten = False
        with pytest.raises(bagel_rt.EngineError, match="needs the onnx package; run: pip install onnx"):
            bagel.ask("what?")


@pytest.mark.parametrize(
    "thing, told",
    [
        (lambda path: path.mkdir(), "a link to a folder, .*elsewhere"),
        (lambda path: os.mkfifo(path), "a link to a pipe, .*elsewhere"),
        (lambda path: None, "a link to .*elsewhere, which is not there; download or export"),
    ],
)
def test_a_link_to_anything_but_a_file_is_refused_by_name(small_artefact, tmp_path, thing, told):
    links = snapshot(small_artefact, tmp_path / "hub")
    thing(tmp_path / "elsewhere")
    for name in ("vit.onnx", "bagel_rt.json"):
        (links / name).unlink()
        (links / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(bagel_rt.ArtefactError, match=rf"{name}: {told}"):
            read_manifest(links)


def test_a_link_to_a_device_is_refused_by_name(small_artefact, tmp_path):
    links = snapshot(small_artefact, tmp_path / "hub")
    (links / "weights.safetensors").unlink()
    (links / "weights.safetensors").symlink_to("/dev/zero")
    with pytest.raises(bagel_rt.ArtefactError, match=r"weights\.safetensors: a link to a device, /dev/zero"):
        bagel_rt.load(links)

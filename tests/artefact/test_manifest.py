"""What a manifest says is what is read from it: each key where it belongs, each mistake by its key."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import fields, replace

import pytest
from nano_copy import nano_copy, restated

from bagel_engines.number_formats import KEPT_AS
from bagel_rt.artefact import manifest as manifests
from bagel_rt.artefact.contract import CONTRACT_VERSION, EXTRAS, FORMAT_VERSION, TASK_GRAPHS, ModelDims
from bagel_rt.artefact.folders import BUNDLED
from bagel_rt.artefact.manifest import (
    MANIFEST,
    SPECIAL_TOKENS,
    ResizeRule,
    TableRef,
    Widths,
    model_section,
    read_manifest,
    sha256,
)
from bagel_rt.artefact.stamps import stamp
from bagel_rt.errors import ArtefactError

STATED = json.loads((BUNDLED / MANIFEST).read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path):
    return nano_copy(tmp_path / "model")


def changed(folder, *keys, **to):
    """The manifest with the value at a path of keys changed, or taken out."""

    def change(stated: dict) -> None:
        for key in keys[:-1]:
            stated = stated[key]
        if "value" in to:
            stated[keys[-1]] = to["value"]
        else:
            del stated[keys[-1]]

    return restated(folder, change)


def refusal(folder) -> str:
    with pytest.raises(ArtefactError) as refused:
        read_manifest(folder)
    return str(refused.value)


def test_every_key_is_where_it_belongs(folder):
    found = read_manifest(folder)
    for name in ("task", "precision", "arithmetic", "graphs", "files"):
        assert getattr(found, name) == STATED[name], name
    assert found.folder == folder.resolve()
    assert found.raw == STATED
    assert found.model == ModelDims(**STATED["model"])
    assert model_section(found.model) == STATED["model"]
    assert found.vae_transform == ResizeRule(**STATED["transforms"]["vae"])
    assert found.vit_transform == ResizeRule(**STATED["transforms"]["vit"])
    assert found.vae_transform != found.vit_transform
    assert found.tokenizer_file == STATED["tokenizer"]["file"]
    assert found.special_ids == {name: STATED["tokenizer"]["special_ids"][name] for name in SPECIAL_TOKENS}
    table = STATED["embeddings"]
    assert found.embeddings == TableRef(table["file"], table["offset"], tuple(table["shape"]), table["dtype"])
    assert found.digest == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    assert found.found == {name: stamp(folder / name) for name in (MANIFEST, *STATED["files"])}
    assert found.widths == Widths(**{field.name: STATED["widths"][field.name] for field in fields(Widths)})


def test_what_follows_from_the_manifest(folder):
    found = read_manifest(folder)
    assert (found.name, found.system) == (STATED.get("source", "model"), None)
    sizes = [entry["size"] for name, entry in STATED["files"].items() if name.endswith(".safetensors")]
    assert found.weight_bytes == sum(sizes) > 0
    assert found.fingerprint == hashlib.sha256(json.dumps(STATED, sort_keys=True).encode()).hexdigest()[:16]
    for name, entry in {**STATED["graphs"], **STATED["extra_graphs"]}.items():
        assert found.has(name)
        assert found.graph_file(name) == folder / entry["file"]
        assert found.weights_of(name) == entry.get("weight_bytes", 0)
    assert not found.has("another")
    assert set(found.extras) <= set(EXTRAS)


def test_what_old_artefacts_leave_out_is_not_needed(folder):
    changed(folder, "widths")
    changed(folder, "extra_graphs")
    changed(folder, "graphs", "vit", "weight_bytes")
    found = read_manifest(folder)
    assert found.widths is None
    assert found.extras == {}
    assert found.weights_of("vit") == 0
    found = read_manifest(changed(folder, "widths", value=None))
    assert found.widths is None


def test_a_name_and_a_system_prompt_are_read_where_they_are_stated(folder):
    found = read_manifest(changed(changed(folder, "source", value="mine"), "system_prompt", value="be brief"))
    assert (found.name, found.system) == ("mine", "be brief")
    assert read_manifest(changed(folder, "source")).name == "model"
    assert "key missing or malformed: system_prompt 3, a text is expected" in refusal(
        changed(folder, "system_prompt", value=3)
    )


@pytest.mark.parametrize(
    "keys, value, told",
    [
        (("task",), "sing", f"task 'sing', allowed: {', '.join(TASK_GRAPHS)}"),
        (("arithmetic",), "int3", "arithmetic 'int3', allowed: float32, "),
        (("graphs", "vit"), None, "'graphs.vit'"),
        (("tokenizer", "special_ids", "im_start"), None, "'tokenizer.special_ids.im_start'"),
        (("model", "head_dim"), None, "'head_dim'"),
        (("precision",), None, "'precision'"),
        (("transforms", "vae", "max_size"), None, "max_size"),
        (("transforms", "vit"), None, "'vit'"),
        (("embeddings", "dtype"), None, "'dtype'"),
        (("files",), None, "'files'"),
        (("graphs", "vit", "file"), None, "'file'"),
    ],
)
def test_a_missing_or_odd_key_is_named(folder, keys, value, told):
    odd = changed(folder, *keys, **({} if value is None else {"value": value}))
    said = refusal(odd)
    assert said.startswith(f"{folder / MANIFEST}: key missing or malformed: ")
    assert told in said
    assert said.endswith("; export the model again")


@pytest.mark.parametrize("key, known", [("format_version", FORMAT_VERSION), ("contract_version", CONTRACT_VERSION)])
def test_another_version_is_refused_with_what_to_do(folder, key, known):
    path = folder / MANIFEST
    newer, older = (refusal(changed(folder, key, value=known + more)) for more in (1, -1))
    assert newer == f"{path}: {key} is {known + 1}, this version reads {known}: a newer bagel-rt is needed"
    assert older == f"{path}: {key} is {known - 1}, this version reads {known}: export the model again"
    for odd in ("1", True, None, 1.0):
        said = refusal(changed(folder, key, value=odd))
        assert said == f"{path}: key '{key}' must be an integer, found {odd!r}; export the model again"
    path.write_text("[]")
    assert "key 'format_version' must be an integer, found None" in refusal(folder)
    path.write_text("{")
    assert "not readable as JSON" in refusal(folder)
    assert "; export the model again" in refusal(folder)


def test_a_folder_without_a_manifest_is_no_artefact_and_a_checkpoint_is_known(tmp_path):
    said = f"{tmp_path}: not a bagel-rt artefact, {MANIFEST} is missing"
    assert refusal(tmp_path) == said
    (tmp_path / "ema.safetensors").write_bytes(b"")
    assert refusal(tmp_path) == f"{said} (this is a checkpoint: run bagel-rt export first)"


def test_a_manifest_may_have_as_many_bytes_as_are_allowed_and_not_one_more(folder, monkeypatch):
    size = (folder / MANIFEST).stat().st_size
    monkeypatch.setattr(manifests, "MOST_MANIFEST", size)
    assert read_manifest(folder)
    monkeypatch.setattr(manifests, "MOST_MANIFEST", size - 1)
    assert refusal(folder) == f"{folder / MANIFEST}: {size} bytes; a manifest has at most {size - 1}"


@pytest.mark.parametrize("more", [b"x", None])
def test_a_file_of_another_size_is_damaged(folder, more):
    path = folder / "vit.onnx"
    size, data = path.stat().st_size, path.read_bytes()
    path.unlink()
    path.write_bytes(data + more if more else data[:-1])
    now = path.stat().st_size
    assert refusal(folder) == (
        f"{path}: {now} bytes, the manifest says {size}: the file is damaged; export the model again"
    )


@pytest.mark.parametrize("name", ["vit.onnx", "layer.onnx", "tokenizer.json"])
def test_a_file_that_is_used_and_not_listed_is_named(folder, name):
    assert refusal(changed(folder, "files", name)) == f"{folder / MANIFEST}: {name} is used but not listed in 'files'"


def test_a_listed_file_that_is_not_there_is_named(folder):
    (folder / "vit.onnx").unlink()
    assert str(folder / "vit.onnx") in refusal(folder)


def test_a_graph_that_was_exchanged_since_is_not_opened(folder):
    found = read_manifest(folder)
    with found.unchanged():
        pass
    path = folder / "vit.onnx"
    seen = path.stat()
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))
    with pytest.raises(ArtefactError, match=r"vit\.onnx"):
        found.graph_file("vit")
    assert found.graph_file("lm_head") == folder / "lm_head.onnx"
    with pytest.raises(ArtefactError, match=r"vit\.onnx"), found.unchanged():
        pytest.fail("it was opened")


def test_what_goes_wrong_inside_is_told_as_the_change_that_caused_it(folder):
    found = read_manifest(folder)
    with pytest.raises(ArtefactError, match=r"lm_head\.onnx"), found.unchanged():
        (folder / "lm_head.onnx").unlink()
        raise RuntimeError("the engine could not open it")


def test_every_graph_is_looked_at_those_beside_the_tasks_own_too(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(manifests, "check_graph", lambda path, *_: seen.append(path.stem))
    read_manifest(folder).check_graphs()
    assert sorted(seen) == sorted({**STATED["graphs"], **STATED["extra_graphs"]})


def test_graphs_are_checked_against_the_folders_files_and_their_state_when_they_were_found(folder, monkeypatch):
    given = []
    monkeypatch.setattr(manifests, "check_graph", lambda *what: given.append(what))
    found = read_manifest(folder)
    found.graph_file("vit")
    sizes = {name: entry["size"] for name, entry in STATED["files"].items()}
    assert given == [(folder / "vit.onnx", found.found["vit.onnx"], sizes)]
    replace(found, found={}).graph_file("vit")  # where nothing was found before it is looked at now
    assert given[1] == given[0]


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_each_special_token_is_a_row_of_the_table(folder, token):
    rows = STATED["embeddings"]["shape"][0]
    assert f"tokenizer.special_ids.{token} is {rows}" in refusal(
        changed(folder, "tokenizer", "special_ids", token, value=rows)
    )
    assert read_manifest(changed(folder, "tokenizer", "special_ids", token, value=0)).special_ids[token] == 0


def test_a_tables_size_is_that_of_its_numbers_format(folder):
    size = KEPT_AS[STATED["embeddings"]["dtype"]].itemsize
    end = STATED["files"][STATED["embeddings"]["file"]]["size"]
    rows, columns = STATED["embeddings"]["shape"]
    last = end - rows * columns * size
    assert read_manifest(changed(folder, "embeddings", "offset", value=last)).embeddings.offset == last
    assert "do not fit" in refusal(changed(folder, "embeddings", "offset", value=last + 1))


def test_a_tokenizers_size_has_a_limit_of_its_own(folder, monkeypatch):
    size = STATED["files"]["tokenizer.json"]["size"]
    monkeypatch.setattr(manifests.bounds, "MOST_TOKENIZER", size)
    assert read_manifest(folder)
    monkeypatch.setattr(manifests.bounds, "MOST_TOKENIZER", size - 1)
    assert f"files.tokenizer.json.size is {size}; allowed are 0 to {size - 1}" in refusal(folder)


def test_a_hash_tells_how_far_it_is_after_each_piece(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    assert list(sha256(path, 4)) == [4, 8, 10, hashlib.sha256(b"0123456789").hexdigest()]
    path.write_bytes(b"")
    assert list(sha256(path)) == [hashlib.sha256(b"").hexdigest()]

"""A manifest cannot lead out of its folder, and cannot state what no model has: refused before anything is opened."""

from __future__ import annotations

import os
import re
import tracemalloc

import pytest
from nano_copy import nano_copy, restated

import bagel_rt
from bagel_rt.artefact import manifest as manifests
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.errors import ArtefactError

OUTSIDE = [
    "../secret",
    "/etc/passwd",
    "..",
    ".",
    "",
    "C:secret",
    "C:\\secret",
    "a\\b",
    "a/b",
    "a\nb",
    "a\0b",
    "x" * 256,
    3,
]


@pytest.fixture
def folder(tmp_path):
    return nano_copy(tmp_path / "model")


def put(*keys, value):
    """A change of a manifest: the value at a path of keys."""

    def change(stated: dict) -> None:
        for key in keys[:-1]:
            stated = stated[key]
        stated[keys[-1]] = value

    return change


def refused(folder, change, words: str) -> None:
    with pytest.raises(ArtefactError, match=words) as error:
        read_manifest(restated(folder, change))
    assert str(folder / "bagel_rt.json") in str(error.value)
    assert "export the model again" in str(error.value)


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize(
    "keys",
    [("graphs", "vit", "file"), ("extra_graphs", "layer", "file"), ("tokenizer", "file"), ("embeddings", "file")],
)
def test_a_path_out_of_the_folder_is_refused_wherever_a_file_is_named(folder, keys, name):
    words = f"{re.escape('.'.join(keys))}.*(is not the name of a file in this folder|must be a file's name)"
    refused(folder, put(*keys, value=name), words)


@pytest.mark.parametrize("name", [name for name in OUTSIDE if isinstance(name, str)])
def test_a_path_out_of_the_folder_is_refused_in_the_list_of_files_and_not_looked_at(
    folder, tmp_path, name, monkeypatch
):
    seen = []
    monkeypatch.setattr(manifests, "stamp", lambda path, real=manifests.stamp: seen.append(path.name) or real(path))
    refused(folder, put("files", name, value={"size": 1, "sha256": ""}), "is not the name of|must be a file's name")
    assert seen == ["bagel_rt.json"]


@pytest.mark.parametrize(
    "keys, value, words",
    [
        (("files", "vit.onnx", "size"), -1, r"files\.vit\.onnx\.size is -1; allowed are 0 to"),
        (("files", "vit.onnx", "size"), 10**30, r"files\.vit\.onnx\.size is 10{30}"),
        (("files", "vit.onnx", "size"), "3", r"must be a whole number, found '3'"),
        (("files", "vit.onnx", "size"), True, "must be a whole number"),
        (("files", "tokenizer.json", "size"), 1 << 40, "tokenizer.json.size is"),
        (("files", "vit.onnx"), None, "must be an object"),
        (("files",), [], "files must be an object"),
        (("graphs", "vit"), "vit.onnx", "graphs.vit must be an object"),
        (("graphs", "vit", "weight_bytes"), -5, r"graphs\.vit\.weight_bytes is -5"),
        (("model",), [], "model must be an object"),
        (("model", "hidden_size"), 1 << 40, "model.hidden_size is"),
        (("model", "hidden_size"), 256.0, "model.hidden_size must be a whole number"),
        (("model", "num_hidden_layers"), 0, "model.num_hidden_layers is 0; allowed are 1 to 1024"),
        (("model", "max_latent_size"), -4, "model.max_latent_size is -4"),
        (("model", "rope_theta"), float("nan"), "model.rope_theta must be a number"),
        (("model", "vae_scale"), "1", "model.vae_scale must be a number"),
        (("widths", "vae"), 1 << 50, "widths.vae is"),
        (("transforms", "vae", "max_size"), 1 << 50, "transforms.vae.max_size is"),
        (("transforms", "vit", "stride"), 0, "transforms.vit.stride is 0"),
        (("embeddings", "offset"), -1, "embeddings.offset is -1"),
        (("embeddings", "offset"), 15084760, "do not fit into weights.safetensors, 15084760 bytes"),
        (("embeddings", "shape"), [1 << 23, 256], "do not fit into weights.safetensors"),
        (("embeddings", "shape"), [832, 1 << 20], "rows of 1048576, model.hidden_size is 256"),
        (("embeddings", "shape"), [1 << 60, 256], "embeddings.shape is"),
        (("tokenizer", "special_ids", "im_end"), 832, "special_ids.im_end is 832; allowed are 0 to 831"),
        (("tokenizer", "special_ids", "im_end"), -1, "special_ids.im_end is -1"),
    ],
)
def test_a_size_that_no_model_has_is_refused_with_its_key_and_what_is_allowed(folder, keys, value, words):
    tracemalloc.start()
    refused(folder, put(*keys, value=value), words)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_numbers_that_are_only_too_large_together_are_refused(folder):
    def change(stated: dict) -> None:
        stated["model"] |= {"num_hidden_layers": 1024, "num_key_value_heads": 1024, "head_dim": 4096}

    refused(folder, change, "a token's keys and values would be 8589934592 numbers; allowed are 16777216")


def test_more_files_than_an_artefact_has_are_refused(folder):
    many = {f"f{i}": {"size": 0} for i in range(10_001)}
    refused(folder, put("files", value=many), "files has 10001 entries; allowed are 10000")


@pytest.mark.parametrize("name", ["VIT.onnx", "vit.ONNX"])
def test_two_files_whose_names_differ_in_case_alone_are_refused(folder, name):
    (folder / name).write_bytes((folder / "vit.onnx").read_bytes())
    stated = {"size": (folder / name).stat().st_size, "sha256": ""}
    words = f"files has 'vit.onnx' and '{name}', which are one file where case does not count"
    refused(folder, put("files", name, value=stated), words)


def test_a_manifest_of_a_size_that_none_has_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(manifests, "MOST_MANIFEST", 1000)
    monkeypatch.setattr(manifests, "read_bytes", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ArtefactError, match=r"bagel_rt\.json: \d+ bytes; a manifest has at most 1000"):
        read_manifest(folder)


@pytest.mark.parametrize("make, told", [(os.mkdir, "a folder"), (os.mkfifo, "a pipe")])
def test_what_is_no_file_is_refused_in_a_files_place(folder, make, told):
    for name in ("vit.onnx", "bagel_rt.json"):
        (folder / name).unlink()
        make(folder / name)
        with pytest.raises(ArtefactError, match=rf"{name}: {told}, where a file of the artefact belongs"):
            bagel_rt.load(folder)


def test_the_bundled_manifest_is_within_all_bounds(folder):
    assert read_manifest(folder).name == "bagel-nano"

"""Files made of pieces in any order are read, or refused with an error of ours: no traceback, nothing half done."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nano_copy import nano_copy

from bagel_rt.artefact.folders import BUNDLED
from bagel_rt.artefact.manifest import MANIFEST, read_manifest
from bagel_rt.cli.jsonl_requests import read_requests
from bagel_rt.errors import ArtefactError, CheckpointError, InputError
from bagel_rt.files.safetensors_file import read_header

SOON = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
STATED = json.loads((BUNDLED / MANIFEST).read_text(encoding="utf-8"))
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["..", "vit.onnx"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    """Every path of keys in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key)
        yield from places(one, (*path, key))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return nano_copy(tmp_path_factory.mktemp("fuzz") / "model")


# half of the places are the lists of inputs and outputs, which are for people: nothing reads them
PLACES = [path for path in places(STATED) if not {"inputs", "outputs"} & set(path)]


@SOON
@given(st.sampled_from(PLACES), anything, st.booleans())
def test_a_manifest_with_anything_in_any_place(folder, place, value, removed):
    stated = json.loads(json.dumps(STATED))
    inner = stated
    for key in place[:-1]:
        inner = inner[key]
    if removed:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    (folder / MANIFEST).write_text(json.dumps(stated), encoding="utf-8")
    try:
        manifest = read_manifest(folder)
        manifest.check_graphs()
        assert manifest.fingerprint
        assert manifest.weight_bytes > 0
        assert manifest.widths is None or manifest.widths.vae >= 0
    except ArtefactError as error:
        assert str(folder) in str(error)


headers = st.dictionaries(
    st.text(max_size=8),
    anything
    | st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "BF16", "I8", "F99"]) | anything,
            "shape": st.lists(st.integers(-2, 1 << 62), max_size=3) | anything,
            "data_offsets": st.lists(st.integers(-1, 1 << 62), max_size=3) | anything,
        }
    ),
    max_size=3,
)


@SOON
@given(headers.map(json.dumps).map(str.encode) | st.binary(max_size=40), st.none() | st.integers(0, 2**64 - 1))
def test_a_safetensors_header_of_any_words_and_any_length(header, length):
    data = (len(header) if length is None else length).to_bytes(8, "little") + header + bytes(16)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "a.safetensors"
        path.write_bytes(data)
        try:
            found = read_header(path)
        except CheckpointError as error:
            assert "a.safetensors" in str(error)
            return
        assert all(one.offset <= len(data) for one in found.values())


known = st.sampled_from(
    ["prompt", "id", "task", "image", "preset", "seed", "height", "images", "think", "num_timesteps"]
)
lines = st.dictionaries(known | st.text(max_size=6), anything | st.sampled_from(["generate", "ask", "notebook", 64]))


@SOON
@given(st.lists(lines.map(json.dumps) | st.text(max_size=20), max_size=3).map("\n".join))
def test_a_batch_file_of_any_lines(text):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "requests.jsonl"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            assert all(request.prompt is not None for request in read_requests(path))
        except InputError as error:
            assert str(error)

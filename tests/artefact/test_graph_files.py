"""ONNX files that bagel-rt would not write are refused before an engine sees them."""

from __future__ import annotations

import re
import struct

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nano_copy import nano_copy, restated
from onnx import TensorProto, helper, numpy_helper

import bagel_rt
from bagel_rt.artefact import graph_files
from bagel_rt.artefact.folders import BUNDLED
from bagel_rt.artefact.graph_files import OPERATORS, check_graph
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.artefact.protobuf import fields, integers
from bagel_rt.artefact.stamps import stamp
from bagel_rt.errors import ArtefactError

FILES = {"weights.safetensors": 4096}


def node(kind: str = "Identity", **how):
    return helper.make_node(kind, ["x"], ["y"], **how)


def model(*nodes, initializers=()):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph(list(nodes) or [node("Neg")], "g", [x], [y], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


def external(location="weights.safetensors", dims=(16,), kind=TensorProto.FLOAT, **entries):
    tensor = TensorProto(name="w", dims=dims, data_type=kind, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "64", "length": "64", **entries}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def look(folder, data) -> None:
    path = folder / "g.onnx"
    path.write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    graph_files._checked.cache_clear()
    check_graph(path, stamp(path), FILES)


def refused(folder, data, words: str) -> None:
    with pytest.raises(ArtefactError, match=words) as error:
        look(folder, data)
    assert re.match(
        r".*g\.onnx: not a graph that bagel-rt writes: .*; export the model again, or ask", str(error.value)
    )


def loop() -> onnx.NodeProto:
    body = helper.make_graph([node("Neg")], "b", [], [])
    return node("Identity", body=body)


def with_function() -> onnx.ModelProto:
    made = model()
    made.functions.append(helper.make_function("own", "F", ["x"], ["y"], [node()], [helper.make_opsetid("", 24)]))
    return made


def with_training() -> onnx.ModelProto:
    made = model()
    made.training_info.add()
    return made


def with_sparse() -> onnx.ModelProto:
    made = model()
    made.graph.sparse_initializer.add()
    return made


@pytest.mark.parametrize(
    "made, words",
    [
        (lambda: model(node("Loop")), "the operator 'Loop'"),
        (lambda: model(node("If")), "the operator 'If'"),
        (lambda: model(node("")), "the operator ''"),
        (lambda: model(node("Attention", domain="com.microsoft")), "'Attention' of the domain 'com.microsoft'"),
        (lambda: model(node("Evil", domain="own")), "'Evil' of the domain 'own'"),
        (lambda: model(node(), node("Evil")), "the operator 'Evil'"),
        (lambda: model(loop()), "a graph within a graph"),
        (with_function, "a function of its own"),
        (with_training, "a training graph"),
        (with_sparse, "a sparse weight"),
        (lambda: onnx.ModelProto(ir_version=11), "it has no graph"),
    ],
)
def test_what_is_not_ours_in_a_graph_is_refused_by_name(tmp_path, made, words):
    refused(tmp_path, made(), words)


@pytest.mark.parametrize(
    "tensor, words",
    [
        (external("../weights.safetensors"), "is not the name of a file in this folder"),
        (external("/etc/passwd"), "is not the name of a file in this folder"),
        (external("C:\\weights"), "is not the name of a file in this folder"),
        (external("*/_ORT_MEM_ADDR_/*"), "is not the name of a file in this folder"),
        (external("other.safetensors"), "lies in 'other.safetensors', which the manifest does not list"),
        (external(offset="4096"), "ends at byte 4160 of weights.safetensors, which has 4096"),
        (external(offset="-64"), "is '-64', which is no number of bytes"),
        (external(offset="9" * 30), "which is no number of bytes"),
        (external(length="128"), "a weight of 64 bytes is said to have 128"),
        (external(dims=(1 << 39,)), "a weight of 2199023255552 bytes is said to have 64"),
        (external(dims=(-1,)), "a weight has the shape"),
        (external(dims=(1,) * 9), "a weight has the shape"),
        (external(kind=TensorProto.STRING), "a weight has the type 8"),
        (external(location=None), "the place of a weight is given as 'offset, length'"),
        (external(basepath="/"), "the place of a weight is given as"),
        (
            TensorProto(name="w", dims=[1 << 30], data_type=1, raw_data=b"0000"),
            "a weight of 4294967296 bytes is stated",
        ),
    ],
)
def test_a_weight_outside_the_folders_files_or_of_another_size_is_refused(tmp_path, tensor, words):
    refused(tmp_path, model(initializers=[tensor]), words)


def test_a_second_place_that_a_parser_might_prefer_is_refused(tmp_path):
    tensor = external()
    tensor.external_data.add(key="location", value="/etc/passwd")
    refused(tmp_path, model(initializers=[tensor]), "the place of a weight is given as")


def test_a_weight_in_a_nodes_attribute_is_looked_at_too(tmp_path):
    refused(tmp_path, model(node("Identity", value=external("/etc/passwd"))), "is not the name of a file")


def test_a_graph_in_a_second_piece_of_the_file_is_looked_at_too(tmp_path):
    """Parsers join the pieces of a message that comes twice."""
    more = onnx.ModelProto()
    more.graph.node.append(node("Evil"))
    refused(tmp_path, model().SerializeToString() + more.SerializeToString(), "the operator 'Evil'")


def test_what_bagel_rt_writes_is_let_through(tmp_path):
    inline = numpy_helper.from_array(np.ones((3, 4), np.float32), "i")
    nibbles = external(dims=(128,), kind=TensorProto.INT4)
    look(tmp_path, model(node("Neg"), node("Sin", domain="ai.onnx"), initializers=[inline, external(), nibbles]))


@pytest.mark.parametrize("data", [b"", b"\x3a\xff", b"PK\x03\x04" * 20, b"\x08" + b"\xff" * 11, b"\x3b", b"\x00\x00"])
def test_bytes_that_are_no_message_are_refused(tmp_path, data):
    refused(tmp_path, data, "not a graph that bagel-rt writes")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_with_a_value_error(data):
    try:
        read = list(fields(memoryview(data)))
    except ValueError:
        return
    assert all(number > 0 for number, _ in read)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6), st.text(max_size=20), st.floats(width=32))
def test_fields_are_those_the_onnx_package_wrote(dims, name, number):
    tensor = TensorProto(name=name, dims=dims, data_type=7)
    tensor.float_data.append(number)
    found = list(fields(memoryview(tensor.SerializeToString())))
    read = [value for key, given in found if key == 1 for value in integers(given)]
    assert [value - (1 << 64) if value >> 63 else value for value in read] == dims
    rest = dict(found)
    assert bytes(rest.get(8, b"")).decode() == name
    assert bytes(rest[4]) == struct.pack("<f", number)


def test_the_file_is_looked_at_when_the_model_is_loaded_and_no_engine_sees_it(tmp_path, monkeypatch):
    folder = nano_copy(tmp_path / "model")
    changed = onnx.load(folder / "vit.onnx", load_external_data=False)
    changed.graph.node[0].domain = "own"
    onnx.save(changed, folder / "vit.onnx")
    size = (folder / "vit.onnx").stat().st_size
    restated(folder, lambda stated: stated["files"]["vit.onnx"].update(size=size))
    monkeypatch.setattr("bagel_rt.api.open_engine", lambda *_: pytest.fail("an engine was opened"))
    with pytest.raises(ArtefactError, match=r"vit\.onnx: not a graph that bagel-rt writes.*of the domain 'own'"):
        bagel_rt.load(folder)
    with pytest.raises(ArtefactError, match="of the domain 'own'"):
        read_manifest(folder).graph_file("vit")


def test_a_graph_larger_than_any_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_files, "MOST_GRAPH", 10)
    with pytest.raises(ArtefactError, match=r"g\.onnx: \d+ bytes; a graph without its weights has at most 10"):
        look(tmp_path, model())


def test_every_operator_of_the_bundled_model_is_allowed_and_none_runs_other_graphs():
    used = {n.op_type for p in BUNDLED.glob("*.onnx") for n in onnx.load(p, load_external_data=False).graph.node}
    assert used <= OPERATORS[""]
    assert set(OPERATORS) == {"", "ai.onnx"}
    assert not OPERATORS[""] & {"Loop", "If", "Scan", "SequenceMap", "StringConcat", "Optional"}

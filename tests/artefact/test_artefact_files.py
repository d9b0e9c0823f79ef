"""What lies in an artefact's files: each weight once, standard graphs, nothing tied to its place."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import onnx

import bagel_rt
from bagel_rt.artefact.contract import LAYER, TASK_GRAPHS

MANIFEST, WEIGHTS = "bagel_rt.json", "weights.safetensors"


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
    assert {p.stem for p in graph_paths(small_artefact)} == {*TASK_GRAPHS["full"], LAYER}
    for path in graph_paths(small_artefact):
        model = onnx.load(path, load_external_data=False)
        assert {o.domain: o.version for o in model.opset_import if o.domain in ("", "ai.onnx")} in (
            {"": 24},
            {"ai.onnx": 24},
        )
        assert len(model.functions) == 0
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        onnx.checker.check_model(str(path))


def test_an_artefact_can_be_moved(small_artefact, tmp_path):
    moved = shutil.copytree(small_artefact, tmp_path / "elsewhere")
    with bagel_rt.load(moved, backend="onnxruntime") as bagel:
        assert bagel.generate("x", height=32, width=32, num_timesteps=2, seed=1).image.size == (32, 32)

"""Where the weights of an ONNX file lie (file, offset, length). Needs the onnx package, which engines can do
without."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines import disk
from bagel_engines.low_rank import add_low_rank
from bagel_engines.protocol import EngineFailure, LowRank


@dataclass(frozen=True)
class Place:
    """A tensor's place in a file beside its graph. type: ONNX's number of its element type; shape: in elements."""

    file: Path
    offset: int
    length: int
    type: int
    shape: tuple[int, ...]

    def bytes_in(self, mapped: np.ndarray) -> np.ndarray:
        return mapped[self.offset : self.offset + self.length]


def readable() -> bool:
    return find_spec("onnx") is not None


def places(graph: Path) -> dict[str, Place]:
    """The place of each initializer that lies outside a graph file. Needs the onnx package."""
    return {name: place for name, (place, _) in _read(graph).items()}


def unfused_places(graph: Path) -> dict[str, Place]:
    """`places` without weights quantised in blocks (read by a DequantizeLinear with a block size).

    Engines fuse those with their products into a layout of their own, so they cannot be shared as they lie.
    """
    return {name: place for name, (place, fused) in _read(graph).items() if not fused}


def has_links(graph: Path) -> bool:
    """Whether files beside a graph are links, as in a download cache: engines refuse weights outside its folder."""
    return any(file.is_symlink() for file in graph.parent.iterdir())


def with_weights_at_addresses(graph: Path, marker: str, added: LowRank | None = None) -> tuple[bytes, list[np.ndarray]]:
    """The graph with its weights' addresses in mapped files, which must live as long as what reads them.

    marker: stands where a weight file's name does, and tells an engine that the offset is an address.
    added: products beside the graph's own.
    """
    model, files = _stated(graph), {}
    given = add_low_rank(model, added) if added else {}
    for tensor in model.graph.initializer:
        entries = {entry.key: entry for entry in tensor.external_data}
        if entries:
            file = graph.parent / entries["location"].value
            if tensor.name not in given and file not in files:
                files[file] = mapped(file)
            array = given[tensor.name] if tensor.name in given else files[file]
            offset = entries.get("offset") or tensor.external_data.add(key="offset", value="0")
            entries["location"].value, offset.value = marker, str(array.ctypes.data + int(offset.value))
    return model.SerializeToString(), [*files.values(), *given.values()]


def with_weights_below_root(graph: Path, model: bytes | None = None) -> tuple[bytes, Path]:
    """The graph with its weight files' own paths relative to a root, and that root: of all files, so none is outside.

    model: the graph's bytes where they were changed after reading.
    """
    import onnx

    root = Path(graph.resolve().anchor)
    stated = _stated(graph) if model is None else onnx.load_from_string(model)
    for tensor in stated.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = (graph.parent / entry.value).resolve().relative_to(root).as_posix()
    return stated.SerializeToString(), root


def values_of(tensor: Any, folder: Path) -> np.ndarray:
    """An initializer's values, from their file in `folder`: behind a link too, which the onnx package refuses."""
    from onnx import TensorProto, numpy_helper

    inline = TensorProto()
    inline.CopyFrom(tensor)
    if tensor.external_data:
        entry = {e.key: e.value for e in tensor.external_data}
        start, length = int(entry.get("offset", 0)), int(entry["length"])
        inline.raw_data = mapped(folder / entry["location"])[start : start + length].tobytes()
        inline.ClearField("external_data")
        inline.data_location = TensorProto.DEFAULT
    return numpy_helper.to_array(inline)


def mapped(path: Path) -> np.ndarray:
    """A file's bytes, memory-mapped: nothing is read until it is used. Raises EngineFailure."""
    try:
        return disk.mapped(path)
    except OSError as error:
        raise EngineFailure(f"{path}: cannot be mapped into memory: {error.strerror or error}") from error


def _stated(graph: Path) -> Any:
    """The onnx package's model of a graph file, weights not read."""
    if not readable():
        raise EngineFailure(f"{graph}: reading it needs the onnx package; run: pip install onnx")
    import onnx

    try:
        return onnx.load(str(graph), load_external_data=False)
    except Exception as error:  # protobuf raises errors of its own
        raise EngineFailure(f"{graph} is not an ONNX graph: {error}") from error


def _read(graph: Path) -> dict[str, tuple[Place, bool]]:
    import onnx

    stated = _stated(graph).graph
    fused = {name for node in stated.node if _in_blocks(node) for name in node.input}
    found = {}
    for tensor in stated.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entry = {e.key: e.value for e in tensor.external_data}
            where = graph.parent / entry["location"], int(entry.get("offset", 0)), int(entry["length"])
            found[tensor.name] = Place(*where, tensor.data_type, tuple(tensor.dims)), tensor.name in fused
    return found


def _in_blocks(node) -> bool:
    return node.op_type == "DequantizeLinear" and any(a.name == "block_size" and a.i for a in node.attribute)

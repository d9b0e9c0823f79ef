"""Weights that no file holds: made of those that a file has, in the layout a kernel on CUDA reads.

A graph made for CUDA states them (`Made`), and its session must be given them. What is made of the same bytes in the
same way is one copy for all sessions (shared_weights.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bagel_engines.onnx_files import Place

NOWHERE = 1 << 60  # an offset no file has
NIBBLES = {21: False, 22: True}  # ONNX's numbers of types with two values in a byte: whether they are signed


class How(Protocol):
    """A way to make one array of others; alike ones are equal, so that what they make can be shared."""

    def __call__(self, *parts: np.ndarray) -> np.ndarray: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Behind:
    """One behind the other along the first axis."""

    def __call__(self, *parts: np.ndarray) -> np.ndarray:
        return np.concatenate(parts)


@dataclass(frozen=True)
class Made:
    """An initializer: the names of those it is made of, how, and ONNX's number of its type."""

    parts: tuple[str, ...]
    how: How
    type: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """Where a weight comes from: places in files, and what is made of them; `made` None is the one place as it is."""

    places: tuple[Place, ...]
    made: Made | None = None

    @property
    def key(self) -> tuple:
        """Equal where the bytes are. The parts' names may differ from graph to graph, their places do not."""
        made = self.made
        return self.places, None if made is None else (made.how, made.type, made.shape)

    @property
    def type(self) -> int:
        return self.places[0].type if self.made is None else self.made.type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.places[0].shape if self.made is None else self.made.shape

    @property
    def nbytes(self) -> int:
        """That are read of the files."""
        return sum(place.length for place in self.places)

    def bytes_of(self, files: dict[Path, np.ndarray]) -> np.ndarray:
        """The weight's bytes. files: mapped ones."""
        if self.made is None:
            return self.places[0].bytes_in(files[self.places[0].file])
        return as_bytes(self.made.how(*(array_at(place, files[place.file]) for place in self.places)))


def array_at(place: Place, file: np.ndarray) -> np.ndarray:
    """A mapped file's tensor; numbers of 4 bits as int8."""
    from onnx import helper

    given = place.bytes_in(file)
    if place.type in NIBBLES:
        return _unpacked(given, NIBBLES[place.type])[: int(np.prod(place.shape))].reshape(place.shape)
    return given.view(helper.tensor_dtype_to_np_dtype(place.type)).reshape(place.shape)


def _unpacked(given: np.ndarray, signed: bool) -> np.ndarray:
    out = np.empty((len(given), 2), np.int8)
    out[:, 0], out[:, 1] = given & 15, given >> 4
    if signed:
        np.subtract(out ^ 8, 8, out=out)
    return out.reshape(-1)


def as_bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def stated(graph: Any, made: dict[str, Made]) -> None:
    """Add initializers to a graph, by name, that a session is given.

    onnxruntime wants the file of one that it is given to exist, too; nothing is at this place in it, so that one that
    was not given cannot be read by mistake.
    """
    location = _some_file(graph.initializer)
    graph.initializer.extend(_stated(name, one, location) for name, one in made.items())


def _some_file(tensors: Iterable[Any]) -> str:
    found = (entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location")
    return next(found, "given to the session")


def _stated(name: str, made: Made, location: str) -> Any:
    from onnx import TensorProto, helper

    tensor = TensorProto(name=name, data_type=made.type, dims=made.shape)
    tensor.data_location = TensorProto.EXTERNAL
    size = helper.tensor_dtype_to_np_dtype(made.type).itemsize * int(np.prod(made.shape))
    for key, value in (("location", location), ("offset", NOWHERE), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor

"""An ONNX file as data, looked at before an engine runs it: bagel-rt's own operators, weights in the folder's files.

Engines read anything: operators of custom libraries, functions, weights at a path, or at an address in memory
(ONNX Runtime's location "*/_ORT_MEM_ADDR_/*"). An artefact has none of these. Field numbers: onnx.proto of ONNX 1.19.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from bagel_rt.artefact.bounds import plain_name
from bagel_rt.artefact.protobuf import fields, integers, message, text
from bagel_rt.artefact.stamps import Stamp
from bagel_rt.errors import ArtefactError

MOST_GRAPH = 1 << 28  # bytes: weights lie elsewhere, and the largest graph of the released model has a million
_ARITHMETIC = "Abs Add Cos Div Exp Max Mul Neg Sigmoid Sin Sub Sqrt ReduceMax ReduceMean ReduceSum"
_LAYERS = """Attention Cast Conv DequantizeLinear Gelu Gemm GroupNormalization LayerNormalization MatMul QuantizeLinear
RMSNormalization Resize"""
_SHAPES = "Concat Expand Gather Identity Pad Reshape Shape Slice Squeeze Transpose Unsqueeze"
_CHOICE = "CumSum GatherElements NonZero ScatterElements TopK"  # which rows a piece of an expert computes
# by domain; "ai.onnx" is the same domain as ""
OPERATORS = {
    "": frozenset(_ARITHMETIC.split() + _LAYERS.split() + _SHAPES.split() + _CHOICE.split()),
}
OPERATORS["ai.onnx"] = OPERATORS[""]
# bits of one number, by TensorProto.DataType; texts and complex numbers are not among them
BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16}
BITS |= dict.fromkeys((17, 18, 19, 20), 8) | dict.fromkeys((21, 22, 23), 4)  # 8-bit floats; 4-bit numbers
MOST_AXES, MOST_SIZE = 8, 1 << 40  # of a weight

Sizes = tuple[tuple[str, int], ...]  # of the files that weights may lie in


def check_graph(path: Path, stamp: Stamp, files: Mapping[str, int]) -> None:
    """Refuse a graph file that is not of the kind bagel-rt writes. files: the folder's files and their sizes.

    Looked at once for as long as its stamp stays. Raises ArtefactError naming the file and what it holds.
    """
    _checked(path, stamp, tuple(sorted(files.items())))


@lru_cache(maxsize=64)
def _checked(path: Path, stamp: Stamp, files: Sizes) -> None:
    if stamp.size > MOST_GRAPH:
        raise ArtefactError(f"{path}: {stamp.size} bytes; a graph without its weights has at most {MOST_GRAPH}")
    try:
        _Look(dict(files)).model(memoryview(path.read_bytes()))
    except OSError as error:
        raise ArtefactError(f"{path}: not readable: {error.strerror}") from None
    except ValueError as error:
        raise ArtefactError(
            f"{path}: not a graph that bagel-rt writes: {error}; export the model again, or ask whoever made it"
        ) from None


class _Look:
    """One look through a file. Each method takes a message; ValueError says what it should not hold."""

    def __init__(self, files: Mapping[str, int]):
        self._files = files

    def model(self, data: memoryview) -> None:
        graphs = 0
        for number, value in fields(data):
            if number in (20, 25):
                raise ValueError("it has a function of its own" if number == 25 else "it has a training graph")
            if number == 7:
                self.graph(message(value))
                graphs += 1
        if not graphs:
            raise ValueError("it has no graph")

    def graph(self, data: memoryview) -> None:
        for number, value in fields(data):
            if number == 1:
                self.node(message(value))
            elif number == 5:
                self.tensor(message(value))
            elif number == 15:
                raise ValueError("it has a sparse weight")

    def node(self, data: memoryview) -> None:
        kind = domain = ""
        for number, value in fields(data):
            if number == 4:
                kind = text(value)
            elif number == 7:
                domain = text(value)
            elif number == 5:
                self.attribute(message(value))
            elif number == 8:
                raise ValueError("it has a function of its own")
        if kind not in OPERATORS.get(domain, ()):
            raise ValueError(f"it has the operator {kind!r:.80}" + (f" of the domain {domain!r:.80}" if domain else ""))

    def attribute(self, data: memoryview) -> None:
        for number, value in fields(data):
            if number in (6, 11):
                raise ValueError("it has a graph within a graph")
            if number in (22, 23):
                raise ValueError("it has a sparse weight")
            if number in (5, 10):
                self.tensor(message(value))

    def tensor(self, data: memoryview) -> None:
        dims, kind, outside, entries = list[int](), 0, False, list[tuple[str, str]]()
        for number, value in fields(data):
            if number == 1:
                dims += integers(value)
            elif number == 2:
                (kind,) = integers(value)
            elif number == 13:
                entries.append(_entry(message(value)))
            elif number == 14:
                outside = value != 0
        length = _bytes_of(dims, kind)
        if outside or entries:
            self._weights(entries, length)
        elif length > 16 * len(data):
            raise ValueError(f"a weight of {length} bytes is stated, and {len(data)} are there")

    def _weights(self, entries: list[tuple[str, str]], length: int) -> None:
        """Where an external weight lies: in a listed file, with as many bytes as its shape has."""
        stated = dict(entries)
        if len(stated) < len(entries) or not {"location"} <= stated.keys() <= {"location", "offset", "length"}:
            raise ValueError(f"the place of a weight is given as {', '.join(key for key, _ in entries)!r:.80}")
        name = plain_name("the place of a weight", stated["location"])
        if name not in self._files:
            raise ValueError(f"a weight lies in {name!r:.80}, which the manifest does not list")
        offset, size = _digits(stated.get("offset", "0")), _digits(stated.get("length", str(length)))
        if size != length:
            raise ValueError(f"a weight of {length} bytes is said to have {size}")
        if offset + size > self._files[name]:
            raise ValueError(f"a weight ends at byte {offset + size} of {name}, which has {self._files[name]}")


def _bytes_of(dims: list[int], kind: int) -> int:
    if kind not in BITS:
        raise ValueError(f"a weight has the type {kind}")
    if len(dims) > MOST_AXES or max(dims, default=0) > MOST_SIZE:
        raise ValueError(f"a weight has the shape {dims!r:.80}")
    return -(-math.prod(dims) * BITS[kind] // 8)


def _entry(data: memoryview) -> tuple[str, str]:
    """A StringStringEntryProto."""
    found = {1: "", 2: ""}
    for number, value in fields(data):
        if number in found:
            found[number] = text(value)
    return found[1], found[2]


def _digits(stated: str) -> int:
    if not (stated.isascii() and stated.isdigit() and len(stated) < 20):
        raise ValueError(f"a weight's place is {stated!r:.80}, which is no number of bytes")
    return int(stated)

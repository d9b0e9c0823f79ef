"""Reads a message of protocol buffers field by field, without a schema and without copying it.

Enough to look at an ONNX file before an engine parses it; the onnx package is not always installed. Stricter than a
parser where parsers differ: what two of them could read in two ways is refused. The encoding is described at
protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

_FIXED = {1: 8, 5: 4}  # bytes by wire type


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) for each field: a view where it has a length (texts, messages, packed numbers), else an integer.

    Raises ValueError for bytes that are no message.
    """
    place, end = 0, len(data)
    while place < end:
        tag = data[place]  # a graph has some hundred thousand fields, and nearly all have tags and lengths of one byte
        tag, place = (tag, place + 1) if tag < 0x80 else _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if not number or tag >= 1 << 32:
            raise ValueError(f"a field has the number {number}")
        if kind == 2:
            length = data[place] if place < end else 0x80
            length, place = (length, place + 1) if length < 0x80 else _varint(data, place)
            if length > end - place:
                raise ValueError(f"a field of {length} bytes in a message that has {end - place} left")
            place += length
            yield number, data[place - length : place]
        elif kind == 0:
            value, place = _varint(data, place)
            yield number, value
        else:
            place += _fixed(kind)
            if place > end:
                raise ValueError("a number is cut off")
            yield number, int.from_bytes(data[place - _FIXED[kind] : place], "little")


def text(value: int | memoryview) -> str:
    """A field that holds a text. Raises ValueError."""
    return str(message(value), "utf-8")


def message(value: int | memoryview) -> memoryview:
    """A field that holds a message, or bytes. Raises ValueError."""
    if isinstance(value, int):
        raise ValueError("a number stands where a message belongs")
    return value


def integers(value: int | memoryview) -> Iterator[int]:
    """A repeated integer, in one of its fields: one number, or packed ones."""
    if isinstance(value, int):
        yield value
        return
    place = 0
    while place < len(value):
        number, place = _varint(value, place)
        yield number


def _fixed(kind: int) -> int:
    if kind not in _FIXED:
        raise ValueError(f"a field of the kind {kind}")
    return _FIXED[kind]


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """An unsigned integer of seven bits a byte, and where the next thing begins."""
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, place
        shift += 7
    raise ValueError("a number is cut off")

"""Bytes changed as fuzzers change them: a bit, a byte, a piece taken out, doubled or moved, a word put in; JSON also by
its values."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

WORDS = (
    b"\0",
    b"\xff" * 4,
    b"../",
    b"{",
    b"[" * 40,
    b'"',
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"9" * 30,
    b"\xed\xa0\x80",
    b"\r\n",
)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, float("inf"), float("nan"), 10**30, "", "..", "\ud800", "x" * 300, [], {}, [[]], {"a": {}},
)  # fmt: skip


def endless(seeds: Sequence[bytes], chance: random.Random) -> Iterator[bytes]:
    """The seeds, then changed ones for ever."""
    yield from seeds
    while True:
        yield changed(chance.choice(seeds), seeds, chance)


def changed(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        data = chance.choice(WAYS)(data, others, chance)
    return data


def _place(data: bytes, chance: random.Random) -> int:
    return chance.randrange(len(data) + 1)


def _flipped(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    if not data:
        return data
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _byte(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def _cut(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    start, end = sorted((_place(data, chance), _place(data, chance)))
    return data[:start] + data[end:]


def _doubled(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    start, end = sorted((_place(data, chance), _place(data, chance)))
    return data[:end] + data[start : start + 2000] + data[end:]


def _spliced(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    other = chance.choice(others)
    return data[: _place(data, chance)] + other[_place(other, chance) :]


def _word(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + chance.choice(WORDS) + data[at + chance.choice((0, 1, 4)) :]


def _value(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Another value somewhere in the JSON that the bytes hold, between the first and the last brace."""
    start, end = data.find(b"{"), data.rfind(b"}") + 1
    try:
        found = json.loads(data[start:end])
    except (ValueError, RecursionError):
        return _word(data, others, chance)
    text = json.dumps(_replaced(found, chance)).encode()
    size = data[:start]
    if start == 8 and int.from_bytes(size, "little") == end - start:  # a safetensors header says how long it is
        size = len(text).to_bytes(8, "little")
    return size + text + data[end:]


def _replaced(value: Any, chance: random.Random) -> Any:
    keys = [*value] if isinstance(value, dict) else [*range(len(value))] if isinstance(value, list) else []
    if not keys or chance.random() < 0.2:
        return chance.choice(VALUES)
    copy, key = value.copy(), chance.choice(keys)
    if chance.random() < 0.15:
        del copy[key]
    elif isinstance(copy, dict) and chance.random() < 0.1:
        copy[key + "x"] = copy.pop(key)
    else:
        copy[key] = _replaced(copy[key], chance)
    return copy


WAYS: tuple[Callable[[bytes, Sequence[bytes], random.Random], bytes], ...] = (
    _flipped, _byte, _cut, _doubled, _spliced, _word, _value, _value,
)  # fmt: skip

"""Arrays and the cache on a device, by address. Engines differ in how they compute, not in how bytes move.

A device is anything with a Memory: CUDA (cuda.CudaMemory), or the machine's own memory, where tests run the same code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from bagel_engines.protocol import EngineFailure, Tensor


class Memory(Protocol):
    """Bytes at addresses. Every call is complete when it returns."""

    def take(self, size: int) -> int:
        """An address with room for `size` bytes. Raises OutOfDeviceMemory."""
        ...

    def give(self, address: int) -> None:
        """Give back what was taken; it may be kept for the next taker."""
        ...

    def free(self, address: int) -> None:
        """Give back what was taken to the device itself."""
        ...

    def upload(self, target: int, array: np.ndarray) -> None: ...

    def download(self, array: np.ndarray, source: int) -> None: ...

    def clear(self, target: int, size: int) -> None: ...

    def copy(self, pieces: Sequence[tuple[int, int, int]]) -> None:
        """Copy within the device: (target, source, bytes) of each piece."""
        ...

    def blocks(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, count: int) -> None:
        """Copy `count` blocks of `width` bytes, a pitch apart on either side, within the device."""
        ...


class Replay(Protocol):
    """Work that was captured from a stream."""

    def __call__(self) -> None:
        """Do it again, from beginning to end."""
        ...

    def close(self) -> None: ...


class Stream(Protocol):
    """An order of work on a device."""

    handle: int

    def wait(self) -> None:
        """Until everything in it is done."""
        ...

    def capture(self, work: Callable[[], None]) -> Replay:
        """What `work` puts into the stream, kept instead of done. It must neither take memory nor wait.

        Raises EngineFailure when it cannot be captured; the stream is usable again.
        """
        ...


class HostStream:
    """Work on the machine's own memory is done when it is asked for."""

    handle = 0

    def wait(self) -> None: ...

    def capture(self, work: Callable[[], None]) -> Replay:
        raise EngineFailure("work on the machine's own memory is not captured")


class HostMemory:
    """The machine's own memory as a device."""

    def __init__(self) -> None:
        self._taken: dict[int, ctypes.Array] = {}

    def take(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(max(1, size))
        self._taken[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def give(self, address: int) -> None:
        del self._taken[address]

    free = give

    def upload(self, target: int, array: np.ndarray) -> None:
        ctypes.memmove(target, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray, source: int) -> None:
        ctypes.memmove(array.ctypes.data, source, array.nbytes)

    def clear(self, target: int, size: int) -> None:
        ctypes.memset(target, 0, size)

    def copy(self, pieces: Sequence[tuple[int, int, int]]) -> None:
        for target, source, size in pieces:
            ctypes.memmove(target, source, size)

    def blocks(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, count: int) -> None:
        for i in range(count):
            ctypes.memmove(target + i * target_pitch, source + i * source_pitch, width)


class DeviceArray:
    """A runner.Held that owns its memory. bfloat16 has numpy's uint16 as dtype: its bits.

    reused: whether the memory is kept for arrays of its size when this one goes, else the device has it back.
    """

    lasting = False  # whether it stays where it is for as long as its engine is used

    def __init__(self, memory: Memory, shape: tuple[int, ...], dtype: np.dtype, reused: bool = True):
        self.shape, self.dtype, self._memory, self._reused = shape, np.dtype(dtype), memory, reused
        self.nbytes = int(np.prod(shape)) * self.dtype.itemsize
        self.address = memory.take(self.nbytes)

    def __del__(self) -> None:
        if hasattr(self, "address"):
            (self._memory.give if self._reused else self._memory.free)(self.address)

    def numpy(self) -> np.ndarray:
        array = np.empty(self.shape, self.dtype)
        if array.size:
            self._memory.download(array, self.address)
        return array


def on_device(memory: Memory, array: np.ndarray) -> DeviceArray:
    array = np.ascontiguousarray(array)
    held = DeviceArray(memory, array.shape, array.dtype)
    if array.size:
        memory.upload(held.address, array)
    return held


class HasAddress(Protocol):
    shape: tuple[int, ...]
    address: int


class DeviceCache:
    """A runner.Cache on a device."""

    def __init__(self, memory: Memory, halves: int, slots: int, row: tuple[int, int], dtype: np.dtype):
        self._memory, self._halves, self._slots, self._dtype = memory, halves, slots, dtype
        self._shape, self._row = row, int(np.prod(row)) * dtype.itemsize  # bytes of one slot in one half
        self._array = DeviceArray(memory, (halves * slots, *row), dtype)
        self._array.lasting = True
        memory.clear(self._array.address, self._array.nbytes)

    @property
    def tensor(self) -> DeviceArray:
        return self._array

    def write(self, slots: np.ndarray, rows: Tensor | HasAddress) -> None:
        held = on_device(self._memory, rows) if isinstance(rows, np.ndarray) else rows
        pitch = held.shape[1] * self._row
        for first, slot, count in runs(slots):
            self._copy(self._at(slot), held.address + first * self._row, pitch, count)  # type: ignore[union-attr]

    def move(self, source: int, target: int, count: int) -> None:
        self._copy(self._at(target), self._at(source), self._slots * self._row, count)

    def read(self, slots: np.ndarray) -> np.ndarray:
        out = DeviceArray(self._memory, (self._halves, len(slots), *self._shape), self._dtype)
        pitches = len(slots) * self._row, self._slots * self._row
        for first, slot, count in runs(slots):
            target = out.address + first * self._row
            self._memory.blocks(target, pitches[0], self._at(slot), pitches[1], count * self._row, self._halves)
        return out.numpy()

    def _at(self, slot: int) -> int:
        return self._array.address + int(slot) * self._row

    def _copy(self, target: int, source: int, source_pitch: int, count: int) -> None:
        self._memory.blocks(target, self._slots * self._row, source, source_pitch, count * self._row, self._halves)


def runs(slots: np.ndarray) -> list[tuple[int, int, int]]:
    """(place, slot, count) of each longest run of neighbouring slots: one copy each."""
    if not len(slots):
        return []
    starts = np.flatnonzero(np.diff(slots, prepend=slots[0] - 2) != 1)
    ends = np.append(starts[1:], len(slots))
    return [(int(a), int(slots[a]), int(b - a)) for a, b in zip(starts, ends, strict=True)]

"""Arrays and the key-value cache in a device's memory, handled by address.

ONNX Runtime on CUDA and TensorRT share this: they differ in how they compute, not in how bytes move. A device is
anything with a `Memory`: CUDA (cuda.CudaMemory), or the machine's own memory (HostMemory), on which tests run the same
code without a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from bagel_engines.protocol import EngineFailure, Tensor


class Memory(Protocol):
    """A device's memory: bytes at addresses.

    What is moved is put into its `stream`, as runs of graphs are, so all of it is done in the order it was asked for.
    Downloads alone have finished when they return; an array that is uploaded may change then, too.
    """

    @property
    def stream(self) -> Stream: ...

    def take(self, size: int) -> int:
        """Allocate `size` bytes and return their address. Raises OutOfDeviceMemory."""
        ...

    def give(self, address: int) -> None:
        """Give back what take() returned. It may be kept for the next take() of its size."""
        ...

    def free(self, address: int) -> None:
        """Give back what take() returned to the device at once."""
        ...

    def trim(self) -> None:
        """Give the device back what is kept for later takers."""
        ...

    def upload(self, target: int, array: np.ndarray) -> None: ...

    def download(self, array: np.ndarray, source: int) -> None: ...

    def download_all(self, pieces: Sequence[tuple[np.ndarray, int]]) -> None:
        """Download (array, source) of each piece; what is in the stream is waited for once."""
        ...

    def landing(self, size: int) -> Landing:
        """A place on the host for downloads of `size` bytes that are read later."""
        ...

    def room(self) -> int:
        """Bytes that are free on the device."""
        ...

    def clear(self, target: int, size: int) -> None: ...

    def copy(self, pieces: Sequence[tuple[int, int, int]]) -> None:
        """Copy within the device: (target, source, bytes) of each piece."""
        ...

    def blocks(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, count: int) -> None:
        """Copy `count` blocks of `width` bytes within the device; a pitch is the distance of two blocks' beginnings."""
        ...


class Landing(Protocol):
    """A place on the host, of some bytes, that what lies on a device is brought to while the device goes on."""

    def begin(self, source: int) -> None:
        """Put a download from an address into the stream."""
        ...

    def read(self) -> np.ndarray:
        """The bytes, uint8, when they are there; what came into the stream after `begin` is not waited for."""
        ...


class Replay(Protocol):
    """Work that was captured from a stream (a CUDA graph) and can be done again."""

    def __call__(self) -> None:
        """Put the work into the stream it was captured from."""
        ...

    def close(self) -> None: ...


class Stream(Protocol):
    """A queue of work on a device, as a CUDA stream."""

    handle: int

    def wait(self) -> None:
        """Wait until everything in it is done."""
        ...

    def capture(self, work: Callable[[], None]) -> Replay:
        """Record what `work` puts into the stream instead of doing it. `work` must neither take memory nor wait.

        Raises EngineFailure when it cannot be captured; the stream is usable again.
        """
        ...


class HostStream:
    """The stream of HostMemory: work is done at once, so there is nothing to wait for."""

    handle = 0

    def wait(self) -> None: ...

    def capture(self, work: Callable[[], None]) -> Replay:
        raise EngineFailure("work on the machine's own memory is not captured")


class HostLanding:
    """Downloads at once."""

    def __init__(self, memory: HostMemory, size: int):
        self._memory, self._bytes = memory, np.empty(size, np.uint8)

    def begin(self, source: int) -> None:
        self._memory.download(self._bytes, source)

    def read(self) -> np.ndarray:
        return self._bytes.copy()


class HostMemory:
    """The machine's own memory as a device."""

    def __init__(self) -> None:
        self.stream = HostStream()
        self._taken: dict[int, ctypes.Array] = {}

    def take(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(max(1, size))
        self._taken[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def give(self, address: int) -> None:
        del self._taken[address]

    free = give

    def trim(self) -> None: ...  # nothing is kept

    def upload(self, target: int, array: np.ndarray) -> None:
        ctypes.memmove(target, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray, source: int) -> None:
        ctypes.memmove(array.ctypes.data, source, array.nbytes)

    def download_all(self, pieces: Sequence[tuple[np.ndarray, int]]) -> None:
        for array, source in pieces:
            self.download(array, source)

    def landing(self, size: int) -> Landing:
        return HostLanding(self, size)

    def room(self) -> int:
        return 0  # nothing is copied from the machine's memory into it without need

    def clear(self, target: int, size: int) -> None:
        ctypes.memset(target, 0, size)

    def copy(self, pieces: Sequence[tuple[int, int, int]]) -> None:
        for target, source, size in pieces:
            ctypes.memmove(target, source, size)

    def blocks(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, count: int) -> None:
        for i in range(count):
            ctypes.memmove(target + i * target_pitch, source + i * source_pitch, width)


LEAST_ROOM, ROUNDED_UP = 256, 1 << 16  # bytes


def room_for(size: int) -> int:
    """Bytes that are taken for `size`: small rooms come in few sizes, so that an array which grows a little with every
    token, such as its slots, mostly finds one that was given back."""
    return size if size > ROUNDED_UP else 1 << (max(size, LEAST_ROOM) - 1).bit_length()


class DeviceArray:
    """An array in a device's memory, which it owns (a protocol.Held). bfloat16 is kept as uint16, its bits.

    reused: when this array is deleted, whether its memory is kept for the next array of its size or given back.
    """

    lasting = False  # whether its address stays the same for as long as its engine is used: true of the cache

    def __init__(self, memory: Memory, shape: tuple[int, ...], dtype: np.dtype, reused: bool = True):
        self.shape, self.dtype, self.memory, self._reused = shape, np.dtype(dtype), memory, reused
        self.nbytes = int(np.prod(shape)) * self.dtype.itemsize
        self.address = memory.take(room_for(self.nbytes) if reused else self.nbytes)

    def __del__(self) -> None:
        if hasattr(self, "address"):
            (self.memory.give if self._reused else self.memory.free)(self.address)

    def numpy(self) -> np.ndarray:
        return downloaded([self])[0]


def on_device(memory: Memory, array: np.ndarray) -> DeviceArray:
    array = np.ascontiguousarray(array)
    held = DeviceArray(memory, array.shape, array.dtype)
    if array.size:
        memory.upload(held.address, array)
    return held


@runtime_checkable
class OnDevice(Protocol):
    """An array in a device's memory."""

    shape: tuple[int, ...]
    dtype: np.dtype
    address: int
    memory: Memory


def downloaded(arrays: Sequence[OnDevice]) -> list[np.ndarray]:
    """Copies on the host of arrays of one device."""
    copies = [np.empty(array.shape, array.dtype) for array in arrays]
    pieces = [(copy, array.address) for copy, array in zip(copies, arrays, strict=True) if copy.size]
    if pieces:
        arrays[0].memory.download_all(pieces)
    return copies


def fetched(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Results of one engine's graphs as arrays of the host: those on a device are waited for once."""
    copies = iter(downloaded([tensor for tensor in tensors if isinstance(tensor, OnDevice)]))
    return [next(copies) if isinstance(tensor, OnDevice) else _here(tensor) for tensor in tensors]


def _here(tensor: Tensor) -> np.ndarray:
    return tensor if isinstance(tensor, np.ndarray) else tensor.numpy()


class HasAddress(Protocol):
    shape: tuple[int, ...]
    address: int


class DeviceCache:
    """A protocol.Cache in a device's memory."""

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
    """Split slots into runs of consecutive numbers, each moved by one copy: (index of its first slot, that slot,
    length)."""
    if not len(slots):
        return []
    starts = np.flatnonzero(np.diff(slots, prepend=slots[0] - 2) != 1)
    ends = np.append(starts[1:], len(slots))
    return [(int(a), int(slots[a]), int(b - a)) for a, b in zip(starts, ends, strict=True)]

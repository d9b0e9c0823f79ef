"""Every change on a disk, and every file mapped into memory, is made here: one place where tests let each of them fail.

What the system refuses is raised as its OSError, which names the path.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

T = TypeVar("T")
RENAME_EXCHANGE = 2  # renameat2's flag, from linux/fs.h
NO_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.ENOENT}  # not on this file system; or another just took one away


def attempted(what: str, path: Path, act: Callable[[], T]) -> T:
    """Do one thing to the disk. Tests put a failing disk in the place of this function; nobody else does."""
    del what, path
    return act()


def unique(folder: Path, prefix: str) -> Path:
    """A hidden name that nobody else takes."""
    return folder / f".{prefix}-{uuid.uuid4().hex}"


def make_folder(path: Path, exist_ok: bool = False, parents: bool = False) -> None:
    attempted("make folder", path, lambda: path.mkdir(exist_ok=exist_ok, parents=parents))


def reserve(path: Path) -> None:
    """Make an empty file where nothing is. Raises FileExistsError."""
    attempted("create", path, lambda: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)))


def opened(path: Path, mode: str) -> IO[bytes]:
    """A file to write into, in binary."""
    return attempted("create", path, lambda: path.open(mode))  # pyright: ignore[reportReturnType]


def append(path: Path, data: bytes) -> None:
    """Add to a file that grows, and return when the disk has it: all of it, or nothing is added."""
    with attempted("create", path, lambda: path.open("ab", buffering=0)) as stream:
        before = stream.seek(0, os.SEEK_END)
        try:
            attempted("write", path, lambda: _write_all(stream, data))
            sync(path)
        except OSError:
            with suppress(OSError):
                os.truncate(path, before)
            raise


def write(stream: IO[bytes], data: Any) -> None:
    attempted("write", Path(stream.name), lambda: stream.write(data))


def write_by(path: Path, make: Callable[[Path], object]) -> None:
    """Let a library write a file."""
    attempted("write", path, lambda: make(path))


def sync(path: Path) -> None:
    """Return when the disk has what was written into a file."""
    attempted("sync", path, lambda: _sync(path))


def replace(old: Path, new: Path) -> None:
    """Rename a file, in one step also where one has that name."""
    attempted("rename", new, lambda: os.replace(old, new))


def rename(old: Path, new: Path) -> None:
    """Rename a folder to where nothing is, or an empty folder."""
    attempted("rename", new, lambda: os.rename(old, new))


def exchange(a: Path, b: Path) -> bool:
    """Swap two paths in one step; False where the kernel or the file system cannot."""
    return attempted("rename", b, lambda: _exchange(a, b))


def link(file: Path, new: Path) -> None:
    """Give a file a second name. Raises FileExistsError."""
    attempted("link", new, lambda: os.link(file, new))


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    attempted("remove", path, lambda: path.unlink(missing_ok=True))


def remove_folder(path: Path) -> None:
    """Remove an empty folder."""
    attempted("remove", path, path.rmdir)


def remove_tree(path: Path, last: str = "") -> None:
    """Remove a folder with all that is in it, as far as that is possible, and the file `last` after the others: what it
    says of the folder holds until then. Raises nothing."""
    with suppress(OSError):
        attempted("remove", path, lambda: _remove_tree(path, last))


def write_new(path: Path, data: bytes, mode: int) -> None:
    """A file where nothing is, with these rights from its first moment. Raises FileExistsError."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    with attempted("create", path, lambda: os.fdopen(os.open(path, flags, mode), "wb", buffering=0)) as stream:
        try:
            attempted("write", path, lambda: _write_all(stream, data))
            sync(path)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def write_whole(path: Path, data: bytes) -> None:
    """A file that is there whole or not at all, for others who may be reading; what was there before stays until then.

    What the disk has after a loss of power is one of both, too.
    """
    partial = unique(path.parent, path.name)
    try:
        with opened(partial, "wb") as stream:
            write(stream, data)
        sync(partial)
        replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def mapped(path: Path, dtype: Any = np.uint8, offset: int = 0, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A file's values, mapped into memory to be read: nothing is read until it is used."""
    return attempted("map", path, lambda: np.memmap(path, dtype, "r", offset, shape))


@contextmanager
def mapping(path: Path) -> Iterator[mmap.mmap]:
    """A whole file, mapped into memory until the block ends."""
    with path.open("rb") as stream, attempted("map", path, lambda: _mapping(stream)) as found:
        yield found


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _remove_tree(path: Path, last: str) -> None:
    for one in path.iterdir():
        if one.name != last:
            shutil.rmtree(one, ignore_errors=True) if one.is_dir() and not one.is_symlink() else one.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _write_all(stream: FileIO, data: bytes) -> None:
    if stream.write(data) != len(data):  # the last bytes found no room
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), stream.name)


def _mapping(stream: IO[bytes]) -> mmap.mmap:
    return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _exchange(a: Path, b: Path) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    at_cwd = -100
    if libc.renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), RENAME_EXCHANGE) == 0:
        return True
    if ctypes.get_errno() in NO_EXCHANGE:
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(b))

"""Folders that several processes make, use and clear away, in one machine's containers or on several machines.

Process numbers say nothing there. So who uses a folder holds a lock on a file in it, which ends with the process, and
writes down the machine: a folder that another machine used, or that cannot be locked, is only cleared away by its age.
"""

from __future__ import annotations

import io
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

from bagel_engines import disk
from bagel_engines.disk import unique

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

IN_USE = ".in-use"
CHANGING = ".changing"
STALE = 24 * 3600.0  # seconds without a change


def claim(folder: Path) -> IO[bytes]:
    """Say that a folder is used, until what is returned is closed. Raises FileNotFoundError when it is not there."""
    path = folder / IN_USE
    try:
        stream = disk.opened(path, "ab")
    except PermissionError as refused:  # a folder that others made, to be read only
        try:
            stream = path.open("rb")
        except FileNotFoundError:  # nothing to claim by, and the reason is what was refused
            raise FileNotFoundError(refused.errno, refused.strerror, str(path)) from None
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(stream, fcntl.LOCK_SH)
    if not _still_there(stream, path):
        stream.close()
        raise FileNotFoundError(f"{folder} was just removed")
    if stream.writable() and here() not in path.read_bytes().splitlines():
        disk.write(stream, here() + b"\n")
        stream.flush()
    if fcntl is None:  # an open file would keep its folder from being renamed
        stream.close()
        return io.BytesIO()
    return stream


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only one to change a folder's files inside, across threads and processes: waits for whoever is.

    On a file system without locks everybody is let in.
    """
    with disk.opened(folder / CHANGING, "ab") as stream:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def remove_if_abandoned(folder: Path) -> bool:
    """Remove a folder unless somebody uses it, or may do so; returns whether it is gone."""
    try:
        stream = (folder / IN_USE).open("rb")
    except OSError:  # none, or not ours to read
        return _is_old(folder) and _remove(folder)
    with stream:
        users = set(stream.read().splitlines())
        if users != {here()} or not _locked(stream):
            return users != {here()} and _is_old(folder) and _remove(folder)
        return _remove(folder)


@cache
def here() -> bytes:
    """This machine, the same in all of its containers, until it is started again."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return platform.node().encode()


def _still_there(stream: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except OSError:
        return False


def _locked(stream: IO[bytes]) -> bool:
    """Whether nobody else holds the file; held by us from then on."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_old(folder: Path) -> bool:
    try:
        changes = [folder.stat().st_mtime, *(path.stat().st_mtime for path in folder.iterdir())]
    except OSError:
        return False
    return time.time() - max(changes) > STALE


def _remove(folder: Path) -> bool:
    gone = unique(folder.parent, "gone")
    try:
        disk.rename(folder, gone)  # in one step: nobody finds half of it
    except OSError:
        return False
    disk.remove_tree(gone)
    return True

"""A folder of results, which one process at a time writes into."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bagel_engines import disk
from bagel_rt.errors import InputError
from bagel_rt.files.output_files import check_folder, make_folder

LOCK = ".bagel-rt.lock"  # ends with its holder, however that ends: the system forgets the lock, the next takes the file
HELD = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make a folder where there is none, and be its only writer inside. One that was made and stayed empty goes.

    Raises InputError for a place that cannot be written, or that another bagel-rt writes into.
    """
    check_folder(folder)
    made = not folder.is_dir()
    make_folder(folder)
    try:
        with sole_writer(folder):
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # it holds results
                disk.remove_folder(folder)


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Be the only one inside for this folder, across processes and hosts. Raises InputError while another is.

    On a file system without locks everybody is let in.
    """
    path = folder / LOCK
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(disk.opened(path, "ab"))
        while not _taken(stream, folder, path):
            stream = stack.enter_context(disk.opened(path, "ab"))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # on Windows an open file stays
                disk.remove(path)


def _taken(stream: IO[bytes], folder: Path, path: Path) -> bool:
    """Whether the lock is ours; False where its last holder took the file away before we had it."""
    try:
        _lock(stream.fileno())
    except OSError as error:
        if error.errno in HELD:
            raise InputError(
                f"{folder}: another bagel-rt is writing there; wait for it, or choose another folder"
            ) from None
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    return False


def _lock(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

"""Writes every file that a user asked for: its place is checked before the work, and it appears whole or not at all.

A file is written under a hidden name beside its target and takes the target's name when it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bagel_engines import disk
from bagel_rt.errors import InputError, OutputError

REASONS = {
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "there is no leave to write there",
    errno.EPERM: "there is no leave to write there",
    errno.ENOENT: "no file can be made there",
}
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EINVAL}


def check_file(path: Path) -> None:
    """Refuse, before any work, a file that could not be written. Tried by making a file there and removing it.

    Raises InputError naming the path, what is wrong, and what to do.
    """
    _check_folder_above(path)
    if os.path.isdir(path):  # not Path.is_dir, which raises for a name that is too long
        raise InputError(f"{path}: is a folder; name a file")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise InputError(f"{path}: is there and may not be written; choose another name")
    if not _is_device(path):
        _try(path, disk.reserve, disk.remove)


def check_folder(path: Path) -> None:
    """Refuse, before any work, a folder that could not be made, or not be written into. Makes nothing that stays."""
    if os.path.isdir(path):
        _try(path / "file", disk.reserve, disk.remove, named=path)
        return
    _check_folder_above(path)
    if os.path.lexists(path):
        raise InputError(f"{path}: exists and is not a folder; choose another")
    _try(path, disk.make_folder, disk.remove_folder)


def make_folder(path: Path, parents: bool = False) -> None:
    """Make a folder where there is none, and those above it if `parents`. Raises OutputError."""
    with _named(path):
        disk.make_folder(path, exist_ok=True, parents=parents)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden path of the same ending to write to; on a clean end it becomes `path`, else nothing stays.

    Raises OutputError where the disk does not take it.
    """
    with _named(path):
        if _is_device(path):  # a pipe or /dev/stdout is written to, not replaced
            yield path
            return
        with _hidden(path) as partial:
            yield partial
            disk.sync(partial)
            disk.replace(partial, path)


def write_by(path: Path, make: Callable[[Path], object]) -> None:
    """Let `make` write a whole file, as replacing()."""
    with replacing(path) as partial:
        disk.write_by(partial, make)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file, as replacing()."""
    write_by(path, lambda partial: partial.write_bytes(data))


def append_line(path: Path, line: str) -> None:
    """Add a line to a file that grows, and let the disk have it: all of it, or nothing. Raises OutputError."""
    with _named(path):
        disk.append(path, (line + "\n").encode("utf-8"))


def write_to_free(names: Iterable[Path], write: Callable[[Path], object]) -> Path:
    """Write a file once and give it the first of the names that nothing has; returns that name.

    Two processes never get the same one, and nothing is written over. All names lie in one folder. Raises OutputError.
    """
    names = iter(names)
    path = next(names)
    with _named(path), _hidden(path) as partial:
        disk.write_by(partial, write)
        disk.sync(partial)
        while not _took(partial, path):
            path = next(names)
    return path


def _took(partial: Path, path: Path) -> bool:
    """Rename a finished file to `path`; False where another file has that name already."""
    try:
        disk.link(partial, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
    try:  # a file system without hard links: an empty file reserves the name until it is replaced
        disk.reserve(path)
    except FileExistsError:
        return False
    disk.replace(partial, path)
    return True


def _check_folder_above(path: Path) -> None:
    folder = path.absolute().parent
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"{folder}: is not a folder; choose another")
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder; make it first")


def _try(path: Path, make: Callable[[Path], object], remove: Callable[[Path], object], named: Path | None = None):
    """Check that something can be made beside `path`: make it under a hidden name, and remove it."""
    partial = _hidden_name(path)
    try:
        make(partial)
        remove(partial)
    except (OSError, UnicodeEncodeError) as error:
        raise InputError(f"{named or path}: cannot be written, {_reason(error)}; choose another") from None


def _reason(error: OSError | UnicodeEncodeError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "the name cannot be spelled in this system's character set"
    return REASONS.get(error.errno or 0, error.strerror or str(error))


def _is_device(path: Path) -> bool:
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _hidden_name(path: Path) -> Path:
    return path.with_name(f".{path.stem}.partial-{secrets.token_hex(4)}{path.suffix}")


@contextlib.contextmanager
def _hidden(path: Path) -> Iterator[Path]:
    partial = _hidden_name(path)
    try:
        yield partial
    finally:
        disk.remove(partial)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Within the block, the system's errors become an OutputError that names the target, not the hidden file."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written, {_reason(error)}") from error

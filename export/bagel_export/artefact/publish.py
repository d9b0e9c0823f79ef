"""A folder that appears whole or not at all: written under a hidden name, then renamed into place."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bagel_rt.artefact.manifest import MANIFEST
from bagel_rt.errors import ExportError

RENAME_EXCHANGE = 2  # renameat2's flag, from linux/fs.h


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse a target that must not be replaced. Raises ExportError naming it and the way out."""
    if not out.parent.is_dir():
        raise ExportError(f"{out.parent}: no such folder; make it, or choose another --out")
    if not os.path.lexists(out):
        return
    if not out.is_dir() or out.is_symlink():
        raise ExportError(f"{out}: exists and is not a folder; choose another --out")
    if not any(out.iterdir()):
        return
    if not (out / MANIFEST).is_file():
        raise ExportError(f"{out}: exists and is not an artefact ({MANIFEST} is missing); choose another --out")
    if not overwrite:
        raise ExportError(f"{out}: an artefact is there already; use --overwrite to replace it, or another --out")


def check_room(folder: Path, needed: int) -> None:
    """Raise ExportError when the disk under `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ExportError(
            f"{folder}: {needed / 2**30:.2f} GiB are needed for the export, {free / 2**30:.2f} GiB are free on the disk"
        )


def remove_leftovers(out: Path) -> None:
    """Delete hidden partial folders of this target whose process is gone."""
    for path in out.parent.glob(f".{glob_escape(out.name)}.partial-*"):
        pid = path.name.rsplit("-", 1)[1]
        if not (pid.isdigit() and _alive(int(pid))):
            shutil.rmtree(path, ignore_errors=True)


def glob_escape(name: str) -> str:
    import glob

    return glob.escape(name)


@contextlib.contextmanager
def publishing(out: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `out`; on a clean end it becomes `out` in one rename, on any error it is removed."""
    remove_leftovers(out)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        _sync(partial)
        _replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # the unfinished one, or the old one after the exchange


def _replace(new: Path, out: Path) -> None:
    """Put `new` where `out` is. An old artefact is exchanged, so that at no moment neither is there."""
    if not out.exists() or not any(out.iterdir()):
        os.rename(new, out)  # rename(2) replaces an empty folder
    elif not _exchange(new, out):
        old = new.with_name(new.name.replace(".partial-", ".partial-old-"))
        os.rename(out, old)
        os.rename(new, out)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths atomically where the kernel and file system can."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    at_cwd = -100
    if libc.renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), RENAME_EXCHANGE) == 0:
        return True
    if ctypes.get_errno() in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(b))


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

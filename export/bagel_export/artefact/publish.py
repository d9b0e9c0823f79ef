"""A folder that appears whole or not at all: written under a hidden name, then renamed into place."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bagel_engines import disk
from bagel_engines.claims import IN_USE, claim, remove_if_abandoned
from bagel_engines.disk import exchange, unique
from bagel_rt.artefact.manifest import MANIFEST
from bagel_rt.errors import ExportError, InputError, OutputError
from bagel_rt.files.output_files import check_folder


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse a target that must not be replaced. Raises ExportError naming it and the way out."""
    if not out.parent.is_dir():
        raise ExportError(f"{out.parent}: no such folder; make it, or choose another --out")
    _check_writable(out)
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


def _check_writable(out: Path) -> None:
    """Calibration comes before the first byte is written, and takes long."""
    try:
        check_folder(out.parent if os.path.lexists(out) else out)
    except InputError as error:
        raise ExportError(str(error)) from None


def check_room(folder: Path, needed: int) -> None:
    """Raise ExportError when the disk under `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ExportError(
            f"{folder}: {needed / 2**30:.2f} GiB are needed for the export, {free / 2**30:.2f} GiB are free on the disk"
        )


def remove_leftovers(out: Path) -> None:
    """Delete hidden partial folders of this target that nobody writes any more."""
    for path in out.parent.glob(f".{glob.escape(out.name)}.partial-*"):
        remove_if_abandoned(path)


@contextlib.contextmanager
def publishing(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a hidden folder beside `out`; on a clean end it becomes `out` in one rename, on any error it is removed.

    Raises ExportError when something else came there meanwhile that is not to be replaced, OutputError naming `out`
    when the disk does not take it.
    """
    remove_leftovers(out)
    partial = unique(out.parent, f"{out.name}.partial")
    try:
        disk.make_folder(partial)
        with claim(partial):
            yield partial
            _sync(partial)
            _replace(partial, out, overwrite)
        disk.remove(out / IN_USE)  # until now: a kill leaves nothing that the next export takes for used
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be written, {error.strerror or error}; what was there before stays"
        ) from error
    finally:
        disk.remove_tree(partial, last=IN_USE)  # the unfinished one, or the old one after the exchange


def _replace(new: Path, out: Path, overwrite: bool) -> None:
    """Put `new` where `out` is; of several that do so at once the last one stays, or without `overwrite` the first."""
    while not _moved(new, out):
        check_target(out, overwrite)
        with _marked(out):
            if exchange(new, out):
                _check_replaced(new, out)
                return
            _set_aside(out)


@contextlib.contextmanager
def _marked(old: Path) -> Iterator[None]:
    """Mark the folder that goes as this process's, so that the next export removes what a kill leaves of it."""
    try:
        mark = claim(old)
    except OSError:  # it may not be written, or another export just took it away
        yield
        return
    with mark:
        yield


def _moved(new: Path, out: Path) -> bool:
    """Rename to where nothing is, or an empty folder; False when something is there."""
    if sys.platform == "win32" and out.is_dir() and not any(out.iterdir()):
        disk.remove_folder(out)
    try:
        disk.rename(new, out)  # rename(2) replaces an empty folder
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EACCES) and os.path.lexists(out):
            return False
        raise
    return True


def _check_replaced(old: Path, out: Path) -> None:
    """What was exchanged is what may be replaced; else it is put back."""
    try:
        check_target(old, True)
    except ExportError:
        exchange(old, out)
        disk.remove(out / IN_USE)
        raise


def _set_aside(out: Path) -> None:
    """Where two folders cannot be exchanged: the old one goes, and for a moment neither is there."""
    old = unique(out.parent, f"{out.name}.partial-old")
    with contextlib.suppress(FileNotFoundError):  # another export did so
        disk.rename(out, old)
        disk.remove_tree(old)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        disk.sync(path)

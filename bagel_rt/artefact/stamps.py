"""Whether an artefact's files are still those that were there when it was loaded: engines open some of them later."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bagel_rt.errors import ArtefactError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Stamp(NamedTuple):
    """Of a file, behind any links. No inode: some network file systems give a file another one now and then."""

    size: int
    changed: int  # nanoseconds


def stamp(path: Path) -> Stamp:
    """Of a regular file, or a link to one. Raises ArtefactError that says what is there instead."""
    try:
        seen = path.stat()
    except OSError as error:
        raise ArtefactError(f"{path}: {_missing(path, error)}") from None
    if (kind := KINDS.get(stat.S_IFMT(seen.st_mode))) is not None:
        led = f"a link to {kind}, {path.resolve()}" if path.is_symlink() else kind
        raise ArtefactError(f"{path}: {led}, where a file of the artefact belongs; export the model again")
    return Stamp(seen.st_size, seen.st_mtime_ns)


def check_unchanged(folder: Path, found: Mapping[str, Stamp]) -> None:
    """Raise ArtefactError when a file of an open artefact is gone, or is not the one that was found at first."""
    for name, before in found.items():
        try:
            now = stamp(folder / name)
        except ArtefactError:
            raise ArtefactError(
                f"{folder / name}: removed since the model was loaded, and it is needed now; load the model again from"
                " where it is"
            ) from None
        if now != before:
            raise ArtefactError(
                f"{folder / name}: replaced or changed since the model was loaded, and it is needed now; load the model"
                " again"
            )


def _missing(path: Path, error: OSError) -> str:
    if path.is_symlink():
        return f"a link to {os.readlink(path)}, which is not there; download or export the model again"
    if isinstance(error, FileNotFoundError):
        return "file is missing; export the model again"
    return f"cannot be looked at ({error.strerror})"

"""The picture files that commands write: named, or the next names that are free."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from bagel_rt.files.picture_records import why_not_kept
from bagel_rt.results import ImageResult, check_image_target


def free_names() -> Iterator[Path]:
    """bagel-1.png, bagel-2.png, ...: those that are not taken in the current folder."""
    return (path for n in count(1) if not (path := Path(f"bagel-{n}.png")).exists())


def check_free_names() -> None:
    """Refuse, before any work, a current folder that cannot be written into."""
    check_image_target(next(free_names()))


def keeps_settings(path: Path) -> bool:
    """Whether a file of that name will keep its picture's settings; says so on stderr where it will not."""
    lost = why_not_kept(path)
    if lost:
        print(f"bagel-rt: {lost}", file=sys.stderr)
    return not lost


def write_picture(result: ImageResult, path: Path | None, metadata: bool = True) -> Path:
    """Write a picture, under the next free name where none is given; returns the name."""
    if path is None:
        return result.save_to_free(free_names(), metadata)
    result.save(path, metadata)
    return path

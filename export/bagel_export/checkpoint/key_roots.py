"""What training puts in front of tensors' names, taken off: wrappers around the model, and what held it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from itertools import accumulate, takewhile

from bagel_export.checkpoint.packings.packed import Stored
from bagel_rt.adapters.keys import WRAPPER
from bagel_rt.errors import CheckpointError

HOLDERS = ("module.", "model.")  # DDP and DeepSpeed, NeMo: before some keys even where others have nothing in front


def without_root(path: os.PathLike[str], stored: dict[str, Stored], roots: tuple[str, ...]) -> dict[str, Stored]:
    """The tensors by names that begin with one of `roots`, those of the model's own parts, wherever that is possible.

    Raises CheckpointError for two tensors of one name, and names a prefix that some keys have and others have not.
    """
    plain = {key: WRAPPER.sub("", key) for key in stored}
    shared = _shared_root(plain.values(), roots)
    names = {key: _bare(name.removeprefix(shared), roots) for key, name in plain.items()}
    _check_rooted(path, names.values(), roots)
    out: dict[str, Stored] = {}
    for key, name in names.items():
        if name in out:
            raise CheckpointError(
                f"{path}: tensor '{name}' is there twice, as '{out[name].key}' and as '{key}': keep one of them"
            )
        out[name] = stored[key]
    return out


def _shared_root(names: Collection[str], roots: tuple[str, ...]) -> str:
    """What stands before one of `roots` in every name alike, "" if nothing does."""
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*(name.split(".")[:-1] for name in names), strict=False))
    starts = accumulate((f"{parts[0]}." for parts in same), initial="")
    rooted = (start for start in starts if any(name.startswith(roots, len(start)) for name in names))
    return next(rooted, "")


def _bare(name: str, roots: tuple[str, ...]) -> str:
    bare = re.sub(rf"^(?:{'|'.join(map(re.escape, HOLDERS))})+", "", name)
    return bare if bare.startswith(roots) and not name.startswith(roots) else name


def _check_rooted(path: os.PathLike[str], names: Collection[str], roots: tuple[str, ...]) -> None:
    if any(name.startswith(roots) for name in names):
        return
    before = re.compile(rf"(.+?\.)(?:{'|'.join(map(re.escape, roots))})")
    found = sorted({match[1] for name in names if (match := before.match(name))})
    if found:
        listed = " and ".join(f"'{prefix}'" for prefix in found[:3])
        raise CheckpointError(f"{path}: the names of its tensors begin with {listed}: take that off, or keep one model")

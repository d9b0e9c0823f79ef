"""Which artefact a command uses when none is named, and where exports go by default."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bagel_rt.artefact.manifest import MANIFEST, read_manifest
from bagel_rt.errors import InputError
from bagel_rt.files.output_files import make_folder, write_bytes
from bagel_rt.files.typed_paths import typed_path

BUNDLED = Path(__file__).parent.parent / "models" / "bagel-nano"
DEFAULT = "default_model"  # in home(): a folder, or the bundled model's name
LAST_EXPORT = "last_export"  # earlier versions wrote it at every export; read where there is no DEFAULT


@dataclass(frozen=True)
class Found:
    """The artefact folder a command uses, and in words why that one."""

    folder: Path
    why: str


def home() -> Path:
    """Where exports and the record of the default model are kept: BAGEL_RT_HOME, or the user's data folder."""
    import platformdirs

    return typed_path(os.environ.get("BAGEL_RT_HOME") or platformdirs.user_data_dir("bagel-rt"))


def cache() -> Path:
    """Where files that can be made again (packed weights) are kept: BAGEL_RT_CACHE, or the user's cache folder."""
    import platformdirs

    return typed_path(os.environ.get("BAGEL_RT_CACHE") or platformdirs.user_cache_dir("bagel-rt"))


def model_folder(named: str | Path) -> Path:
    """The folder somebody names: a path as they type it, or the bundled model's name, "bagel-nano".

    An artefact of that name in the current folder comes before the bundled one.
    """
    path = typed_path(named)
    bundled = str(named) == BUNDLED.name and not (path / MANIFEST).is_file() and (BUNDLED / MANIFEST).is_file()
    return BUNDLED if bundled else path


def find_model(named: str | Path | None) -> Found:
    """--model, else BAGEL_RT_MODEL, else what `bagel-rt use` chose, else the bundled one. Raises InputError."""
    if named is not None:
        return Found(model_folder(named), "--model")
    if value := os.environ.get("BAGEL_RT_MODEL"):
        return Found(model_folder(value), "BAGEL_RT_MODEL")
    chosen, before = _recorded(DEFAULT), _recorded(LAST_EXPORT)
    if chosen is not None:
        return _chosen(chosen)
    if before is not None and (Path(before) / MANIFEST).is_file():
        return Found(Path(before), "the last export of an earlier version")
    if (BUNDLED / MANIFEST).is_file():
        return Found(BUNDLED, "the bundled model")
    gone = f" (the last export, {before}, is gone)" if before is not None else ""
    raise InputError(
        f"no model{gone}: export one with 'bagel-rt export --ckpt PATH', name one with --model DIR, or set"
        " BAGEL_RT_MODEL"
    )


def use_model(named: str | Path) -> Path:
    """Make a model what commands without --model use; returns its folder.

    Raises ArtefactError for a folder that is no artefact.
    """
    folder = model_folder(named)
    read_manifest(folder)
    make_folder(home(), parents=True)
    # the bundled one by its name: another environment has it elsewhere
    recorded = BUNDLED.name if folder == BUNDLED else folder.resolve()
    write_bytes(home() / DEFAULT, os.fsencode(recorded) + b"\n")
    return folder


def default_export_folder(checkpoint: str) -> Path:
    """Where `export` writes a checkpoint of this name without --out."""
    return home() / "models" / checkpoint


def _chosen(recorded: str) -> Found:
    folder = BUNDLED if recorded == BUNDLED.name else Path(recorded)
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"the default model, {folder}, is gone: choose another with 'bagel-rt use DIR' ('bagel-rt use"
            f" {BUNDLED.name}' for the bundled one), or name one with --model DIR"
        )
    return Found(folder, "chosen with 'bagel-rt use'")


def _recorded(name: str) -> str | None:
    try:
        return os.fsdecode((home() / name).read_bytes()).rstrip("\n") or None
    except OSError:
        return None

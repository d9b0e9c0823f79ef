"""Which artefact a command uses when none is named, and where exports go by default."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bagel_rt.artefact.manifest import MANIFEST
from bagel_rt.errors import InputError

BUNDLED = Path(__file__).parent.parent / "models" / "bagel-nano"


@dataclass(frozen=True)
class Found:
    """The artefact folder a command uses, and in words why that one."""

    folder: Path
    why: str


def home() -> Path:
    """Where exports and the record of the last one are kept: BAGEL_RT_HOME, or the user's data folder."""
    import platformdirs

    return Path(os.environ.get("BAGEL_RT_HOME") or platformdirs.user_data_dir("bagel-rt"))


def cache() -> Path:
    """Where files that can be made again (packed weights) are kept: BAGEL_RT_CACHE, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("BAGEL_RT_CACHE") or platformdirs.user_cache_dir("bagel-rt"))


def find_model(named: Path | None) -> Found:
    """--model, else BAGEL_RT_MODEL, else the last export, else the bundled model. Raises InputError when none is."""
    if named is not None:
        return Found(named, "--model")
    if value := os.environ.get("BAGEL_RT_MODEL"):
        return Found(Path(value), "BAGEL_RT_MODEL")
    last = last_export()
    if last is not None and (last / MANIFEST).is_file():
        return Found(last, "the last export")
    if (BUNDLED / MANIFEST).is_file():
        return Found(BUNDLED, "the bundled model")
    gone = f" (the last export, {last}, is gone)" if last is not None else ""
    raise InputError(
        f"no model{gone}: export one with 'bagel-rt export --ckpt PATH', name one with --model DIR, or set"
        " BAGEL_RT_MODEL"
    )


def default_export_folder(checkpoint: str) -> Path:
    """Where `export` writes a checkpoint of this name without --out."""
    return home() / "models" / checkpoint


def last_export() -> Path | None:
    try:
        return Path((home() / "last_export").read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        return None


def remember_export(folder: Path) -> None:
    """Make `folder` what commands use by default."""
    home().mkdir(parents=True, exist_ok=True)
    record = home() / "last_export"
    partial = record.with_name(f".last_export-{os.getpid()}")
    partial.write_text(f"{folder.resolve()}\n", encoding="utf-8")
    os.replace(partial, record)

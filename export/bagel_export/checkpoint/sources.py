"""What --ckpt may name: a folder, a weight file, a hub cache's folder, or the id of a model on the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from bagel_export.checkpoint.shards import GGUF, INDEX, READ, SUFFIX, find_named, find_weights, read_weights
from bagel_rt.errors import CheckpointError
from bagel_rt.files.typed_paths import typed_path

HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
WANTED = ("*.json", "*.safetensors", "*.gguf", "*.txt")  # the files that are downloaded from the hub


@dataclass(frozen=True)
class Asked:
    """What --ckpt, --base and --weights-file name together."""

    ckpt: str | Path
    base: str | Path | None = None  # a whole checkpoint, for what `ckpt` does not hold
    weights_file: str | None = None  # the name of a file in the folder that `ckpt` names

    def __str__(self) -> str:
        return str(self.ckpt)


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine."""

    folder: Path
    name: str  # for people and for the artefact's folder
    weights: Path | None = None  # a weight file or index that was named; None: looked for in the folder
    base: Source | None = None  # where what this one does not hold is found

    def find_weights(self) -> Path:
        return self.weights or find_weights(self.folder)


def find_source(named: str | Path | Asked) -> Source:
    """The checkpoint that a path or hub id ("owner/name" or "owner/name@revision") means, and the base below it.

    A hub id is looked up in the local cache first and fetched only if it is not there whole. Raises CheckpointError.
    """
    if not isinstance(named, Asked):
        return _find(named)
    found = _find(named.ckpt)
    if named.weights_file is not None:
        if found.weights is not None:
            raise CheckpointError(f"{found.weights}: a weight file already; --weights-file is for a folder")
        found = replace(found, weights=find_named(found.folder, named.weights_file))
    return found if named.base is None else replace(found, base=_find(named.base))


def _find(named: str | Path) -> Source:
    path = typed_path(named)
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        if not path.name.endswith(READ):
            raise CheckpointError(
                f"{path}: not a checkpoint; give its folder, a {SUFFIX} or {GGUF} file, or a *{INDEX}"
            )
        return Source(path.parent, _name(path.parent), path)
    match = HUB_ID.fullmatch(str(named))
    if match is None or Path(named).parent.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint folder")
    return Source(_fetch(match["repo"], match["revision"]), match["repo"].split("/")[1])


def _in_folder(path: Path) -> Source:
    if (path / "snapshots").is_dir() and path.resolve().name.startswith("models--"):
        path = _snapshot(path)
    return Source(path, _name(path))


def _name(folder: Path) -> str:
    """The folder's name; of a hub snapshot, whose folder is named after a commit, the model's."""
    folder = folder.resolve()
    cache = folder.parents[1].name if folder.parent.name == "snapshots" else ""
    return cache.split("--")[-1] if cache.startswith("models--") else folder.name


def _snapshot(cache: Path) -> Path:
    """The snapshot of a hub cache folder (models--owner--name): what `main` points to, or the only one there is."""
    main = cache / "refs" / "main"
    if main.is_file():
        found = cache / "snapshots" / main.read_text(encoding="utf-8").strip()
        if found.is_dir():
            return found
    several = sorted(p for p in (cache / "snapshots").iterdir() if p.is_dir())
    if len(several) != 1:
        raise CheckpointError(
            f"{cache}: holds {len(several)} snapshots and none is the main one; name one of the folders in"
            f" {cache / 'snapshots'}"
        )
    return several[0]


def _fetch(repo: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{repo}: no such checkpoint folder; to read it as a model on the hub run: pip install huggingface_hub"
        ) from None
    wanted = {"repo_id": repo, "revision": revision, "allow_patterns": list(WANTED)}
    try:
        cached = Path(snapshot_download(**wanted, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError, OSError):
        cached = None
    if cached is not None and _whole(cached):
        return cached
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(_not_fetched(repo, cached, "HF_HUB_OFFLINE is set"))
    try:
        return Path(snapshot_download(**wanted))
    except Exception as error:  # the hub's own errors and those of the HTTP client below it
        raise CheckpointError(_not_fetched(repo, cached, f"it gave: {str(error).strip().splitlines()[0]}")) from None


def _whole(folder: Path) -> bool:
    """Whether a snapshot has its weights, every shard of them, and a config where the form has one."""
    try:
        weights = find_weights(folder)
        if weights.suffix == GGUF:
            return True
        read_weights(weights)
    except CheckpointError:
        return False
    return any((folder / name).exists() for name in ("llm_config.json", "config.json"))


def _not_fetched(repo: str, cached: Path | None, why: str) -> str:
    from huggingface_hub import constants

    known = "holds only a part of it" if cached else "does not hold it"
    return (
        f"{repo}: no such checkpoint folder; as a model on the hub: the cache {constants.HF_HUB_CACHE} {known}, and the"
        f" hub cannot be asked: {why}; run 'hf download {repo}' where there is a network, or name a folder"
    )

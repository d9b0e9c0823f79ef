"""Where a checkpoint folder keeps its weights: one safetensors file, or several with or without an index."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from bagel_export.config import read_json
from bagel_rt.errors import CheckpointError
from bagel_rt.files.safetensors_file import StoredTensor, read_header

WEIGHTS, VAE_WEIGHTS, ADAPTER_WEIGHTS = "ema.safetensors", "ae.safetensors", "adapter_model.safetensors"
SUFFIX, INDEX, GGUF = ".safetensors", ".safetensors.index.json", ".gguf"
READ = (SUFFIX, INDEX, GGUF)  # what names of weights end with
# names of weight files, in this order: training leaves both, and the official code runs the moving average (ema)
STEMS = ("ema", "model")
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".distcp")


def find_weights(folder: Path) -> Path:
    """The file that names every tensor: a weight file, an index, or the first of complete shards without an index.

    Raises CheckpointError saying what was found instead.
    """
    names = sorted(os.listdir(folder))
    shards = {m["stem"]: name for name in reversed(names) if (m := SHARD.fullmatch(name))}
    for stem in STEMS:
        for name in (stem + SUFFIX, stem + INDEX, shards.get(stem)):
            if name in names:
                return folder / name
    for found in ([n for n in names if n.endswith(INDEX)], candidates(names)):
        if len(found) == 1:
            return folder / found[0]
    raise CheckpointError(f"{folder / WEIGHTS}: file not found{_instead(names)}")


def find_named(folder: Path, name: str) -> Path:
    """The weight file of this name in a folder. Raises CheckpointError listing those that are there."""
    if Path(name).name == name and name.endswith(READ) and (folder / name).is_file():
        return folder / name
    there = ", ".join(candidates(os.listdir(folder))) or "none"
    raise CheckpointError(
        f"{folder}: has no weight file named {name!r}; there: {there} (--weights-file takes a name ending in"
        f" {' or '.join(READ)})"
    )


def candidates(names: Iterable[str]) -> list[str]:
    """The files among these that may hold a model's weights: of shards the first, not the VAE's, not an adapter's."""
    files = sorted(n for n in names if n.endswith(READ) and n not in (VAE_WEIGHTS, ADAPTER_WEIGHTS))
    return [n for n in files if not (m := SHARD.fullmatch(n)) or int(m["number"]) == 1]


def _instead(names: list[str]) -> str:
    """Advice for a folder that has no weights under a known name."""
    others = candidates(names)
    if others:
        return f" (nor model.safetensors, nor an index); name the file to read with --weights-file: {', '.join(others)}"
    pickled = [n for n in names if n.endswith(PICKLES)]
    if pickled:
        return f"; {pickled[0]} is a pickle, which can run code and is not read: save it as safetensors first"
    return ", nor model.safetensors, nor a *.safetensors.index.json: put the weights into the folder"


def read_weights(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of what find_weights found, by key. Headers are read, values are not.

    Raises CheckpointError naming file and key: a shard that is missing, a tensor in two files, an index that does not
    say what the files hold.
    """
    if path.name.endswith(INDEX):
        return _read_index(path)
    if match := SHARD.fullmatch(path.name):
        return _read_shards(path, match["stem"], int(match["count"]))
    return read_header(path)


def _read_index(path: Path) -> dict[str, StoredTensor]:
    raw = read_json(path)
    listed = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{path}: key 'weight_map' is missing, empty or not an object")
    for key, name in listed.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(SUFFIX):
            raise CheckpointError(
                f"{path}: 'weight_map' puts tensor '{key}' into {name!r}; the name of a safetensors file in the same"
                " folder is expected"
            )
    found = _join(path, [path.parent / name for name in sorted(set(listed.values()))])
    for key, name in listed.items():
        if key not in found or found[key].file.name != name:
            raise CheckpointError(f"{path}: tensor '{key}' is listed for {name} and is not in it: the index is stale")
    for key in found:
        if key not in listed:
            raise CheckpointError(f"{found[key].file}: tensor '{key}' is not listed in {path.name}: the index is stale")
    return found


def _read_shards(path: Path, stem: str, count: int) -> dict[str, StoredTensor]:
    return _join(path, [path.with_name(f"{stem}-{i:05}-of-{count:05}{SUFFIX}") for i in range(1, count + 1)])


def _join(path: Path, files: Iterable[Path]) -> dict[str, StoredTensor]:
    files = list(files)
    missing = [file.name for file in files if not os.path.lexists(file)]
    if missing:
        raise CheckpointError(
            f"{path.parent / missing[0]}: file not found: {len(missing)} of {len(files)} shards are missing; download"
            " or copy the checkpoint again"
        )
    found: dict[str, StoredTensor] = {}
    for file in files:
        _add(found, read_header(file))
    return found


def _add(found: dict[str, StoredTensor], more: Mapping[str, StoredTensor]) -> None:
    for key, tensor in more.items():
        if key in found:
            raise CheckpointError(f"{tensor.file}: tensor '{key}' is also in {found[key].file.name}")
        found[key] = tensor

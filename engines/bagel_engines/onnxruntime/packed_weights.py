"""ONNX Runtime's packed weights on disk: an optimised graph, and beside it the weights in its kernels' own layout.

Without them every session rearranges ("packs") its weights into anonymous memory when it starts. With them it maps the
file: loading takes no time, the pages can be dropped and are shared by processes. A store holds an entry for each
graph, used only if graph, weights, onnxruntime version, CPU features and settings are those it was made with.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bagel_engines import disk
from bagel_engines.claims import IN_USE, claim, remove_if_abandoned
from bagel_engines.disk import unique
from bagel_engines.kept_files import explained
from bagel_engines.protocol import EngineFailure
from bagel_engines.store_key import Key

Opened = TypeVar("Opened")
TRIES = 5
ADVICE = "set BAGEL_RT_CACHE to another disk, or go without packed weights"
GRAPH, RECORD = "graph.onnx", "record.json"
WEIGHTS = "packed.bin"
SAVING = {
    "session.save_external_prepacked_constant_initializers": "1",
    "session.optimized_model_external_initializers_file_name": WEIGHTS,
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}
# disk space of an entry as a multiple of the graph's weights: float32 weights are stored twice, as read and as packed
# (int8 takes one and a half times their size)
ROOM = 2.1


@dataclass(frozen=True)
class PackedKey(Key):
    """Everything an entry depends on.

    model: a name for graphs and weights that changes when either does. weights: the weight files' sizes and times of
    change, in case they were exchanged under that name. settings: the session's options that change what is stored.
    """

    model: str
    graph: str
    graph_hash: str
    weights: tuple[tuple[str, int, int], ...]
    version: str
    processor: str
    settings: Mapping[str, str]


@dataclass(frozen=True)
class PackedStore:
    """A folder of entries, one of each graph. model: as in PackedKey; sizes: bytes of each graph's weights."""

    folder: Path
    model: str
    sizes: Mapping[str, int]

    def key(self, graph: Path, version: str, settings: Mapping[str, str]) -> PackedKey:
        """The key of a graph file, whose weights lie in .safetensors files beside it."""
        files = sorted(graph.parent.glob("*.safetensors"))
        weights = tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)
        digest = hashlib.sha256(graph.read_bytes()).hexdigest()
        return PackedKey(self.model, graph.stem, digest, weights, version, processor(), dict(settings))

    def find(self, key: PackedKey) -> Path | None:
        """The optimised graph of the entry for this key; None where there is none, or a file of it has changed."""
        entry = self.folder / key.name
        try:
            record = json.loads((entry / RECORD).read_text(encoding="utf-8"))
            whole = record["key"] == key.facts() and record["files"] == _files(entry)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return entry / GRAPH if whole else None

    def make(self, key: PackedKey, write: Callable[[Path], object]) -> Path:
        """A new entry: `write` makes the graph it is given the path of, with WEIGHTS beside it. Older entries go.

        The entry appears whole or not at all. Raises EngineFailure where the disk has too little room.
        """
        with explained("packed weights", self.folder, ADVICE):
            return self._make(key, write)

    def _make(self, key: PackedKey, write: Callable[[Path], object]) -> Path:
        disk.make_folder(self.folder, exist_ok=True, parents=True)
        need, free = int(ROOM * self.sizes.get(key.graph, 0)), shutil.disk_usage(self.folder).free
        if need > free:
            raise EngineFailure(
                f"packed weights of '{key.graph}' may take {need / 2**30:.1f} GiB in {self.folder}, {free / 2**30:.1f}"
                " GiB are free; make room, set BAGEL_RT_CACHE to another disk, or go without packed weights"
            )
        for left in self.folder.glob(f".{key.graph}-*"):
            remove_if_abandoned(left)
        entry, partial = self.folder / key.name, unique(self.folder, key.name)
        disk.make_folder(partial)
        try:
            with claim(partial):
                disk.write_by(partial / GRAPH, write)
                record = {"key": key.facts(), "files": _files(partial)}
                disk.write_whole(partial / RECORD, json.dumps(record, indent=1).encode() + b"\n")
                self._place(partial, entry, key)
        finally:
            disk.remove_tree(partial, last=IN_USE)
        self._remove_others(key)
        return entry / GRAPH

    def opened(self, key: PackedKey, read: Callable[[Path], Opened], write: Callable[[Path], object]) -> Opened:
        """What `read` makes of an entry's graph. Where there is no entry, or a damaged one, `write` makes it first.

        Nobody removes the entry while it is read.
        """
        for _ in range(TRIES):
            if (found := self._read(key, read)) is not None:
                return found
            self.make(key, write)
        raise EngineFailure(f"packed weights in {self.folder} are removed as soon as they are made: is it in use?")

    def _read(self, key: PackedKey, read: Callable[[Path], Opened]) -> Opened | None:
        entry = self.folder / key.name
        try:
            with claim(entry):
                if self.find(key) is not None:
                    return read(entry / GRAPH)
        except (FileNotFoundError, NotADirectoryError):  # none, or one that was just replaced
            return None
        except EngineFailure:  # damaged
            self._set_aside(entry)
        return None

    def _place(self, partial: Path, entry: Path, key: PackedKey) -> None:
        """Rename a new entry into place, unless another process was first with the same one."""
        while not _renamed(partial, entry):
            if self.find(key) is not None:
                return
            self._set_aside(entry)

    def _set_aside(self, entry: Path) -> None:
        """Take away what is no whole entry; a process that has it open keeps what it mapped."""
        aside = unique(self.folder, entry.name)
        with suppress(FileNotFoundError):
            disk.rename(entry, aside)
            remove_if_abandoned(aside)

    def _remove_others(self, key: PackedKey) -> None:
        """Remove a graph's entries for what is not there any more, such as an older version, that nobody is reading."""
        for entry in self.folder.glob(f"{key.graph}-" + "[0-9a-f]" * 16):
            if entry.name != key.name:
                remove_if_abandoned(entry)


def _renamed(partial: Path, entry: Path) -> bool:
    try:
        disk.rename(partial, entry)
    except OSError:
        if not entry.exists():
            raise
        return False
    return True


def processor() -> str:
    """The CPU's architecture and features, which decide the layout that weights are packed in."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    features = next((line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {hashlib.sha256(' '.join(sorted(features.split())).encode()).hexdigest()[:16]}"


def _files(entry: Path) -> dict[str, list[int]]:
    """Size and time of last change of each file in an entry, to notice one that was changed since."""
    found = ((f.name, f.stat()) for f in sorted(entry.iterdir()) if f.name not in (RECORD, IN_USE))
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found}

"""bagel_rt.json, the manifest of an artefact folder: read and checked before any graph is opened."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from bagel_engines.number_formats import KEPT_AS
from bagel_rt.artefact import bounds
from bagel_rt.artefact.contract import CONTRACT_VERSION, FORMAT_VERSION, TASK_GRAPHS, ModelDims
from bagel_rt.artefact.graph_files import check_graph
from bagel_rt.artefact.stamps import Stamp, check_unchanged, stamp
from bagel_rt.errors import ArtefactError
from bagel_rt.files.text_files import json_of, read_bytes

MANIFEST = "bagel_rt.json"
MOST_MANIFEST = 1 << 26  # bytes; that of the released model has some hundred thousand
SPECIAL_TOKENS = {
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
}


@dataclass(frozen=True)
class ResizeRule:
    """How input images are resized: the official ImageTransform's limits, in pixels (see inputs/images.py)."""

    max_size: int
    min_size: int
    stride: int
    max_pixels: int = 14 * 14 * 9 * 1024


@dataclass(frozen=True)
class TableRef:
    """A matrix inside a file of the artefact; dtype is a key of number_formats.KEPT_AS."""

    file: str
    offset: int
    shape: tuple[int, int]
    dtype: str


@dataclass(frozen=True)
class Widths:
    """Widths inside the graphs, needed only to estimate memory: inner is the MLP's width of the decoder's layers,
    vit_inner of the ViT's, vae the VAE's first (smallest) width."""

    inner: int
    vit_inner: int
    vit_hidden: int
    vit_heads: int
    vae: int


@dataclass(frozen=True)
class Manifest:
    """What bagel_rt.json says, checked; `raw` is all of it."""

    folder: Path
    task: str
    precision: str
    arithmetic: str  # inside the step graphs, and of the cached keys and values: a key of number_formats.KEPT_AS
    model: ModelDims
    vae_transform: ResizeRule
    vit_transform: ResizeRule
    tokenizer_file: str
    special_ids: Mapping[str, int]
    embeddings: TableRef
    graphs: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, Mapping[str, Any]]
    raw: Mapping[str, Any]
    found: Mapping[str, Stamp]  # each file as it was when the manifest was read
    digest: str  # sha256 of the manifest's bytes, in hex: what a signature signs

    @property
    def name(self) -> str:
        """The checkpoint's name, for people."""
        return str(self.raw.get("source", self.folder.name))

    @property
    def system(self) -> str | None:
        """The system prompt that its calls begin with unless they name another (export --system)."""
        return self.raw.get("system_prompt")

    @property
    def fingerprint(self) -> str:
        """Short hash of everything the manifest states, files' hashes included: names the model in results."""
        return hashlib.sha256(json.dumps(self.raw, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def weight_bytes(self) -> int:
        """Size of the files that hold the weights of every graph."""
        return sum(int(entry["size"]) for name, entry in self.files.items() if name.endswith(".safetensors"))

    def has(self, graph: str) -> bool:
        """Whether the artefact has this graph. Graphs of its task it always has, contract.EXTRAS if exported since they
        exist."""
        return graph in self.graphs or graph in self.extras

    @property
    def extras(self) -> Mapping[str, Mapping[str, Any]]:
        """The entries of contract.EXTRAS."""
        return self.raw.get("extra_graphs", {})

    def graph_file(self, name: str) -> Path:
        """A graph's file, for an engine. Raises ArtefactError for one that bagel-rt would not write (graph_files)."""
        file = self._entry(name)["file"]
        path, known = self.folder / file, self.found.get(file)
        if known is not None:
            check_unchanged(self.folder, {file: known})
        check_graph(path, known or stamp(path), {name: entry["size"] for name, entry in self.files.items()})
        return path

    def check_graphs(self) -> None:
        """Look at every graph file, as graph_file does."""
        for name in (*self.graphs, *self.extras):
            self.graph_file(name)

    def weights_of(self, graph: str) -> int:
        """Bytes of weights that a graph reads."""
        return int(self._entry(graph).get("weight_bytes", 0))

    def _entry(self, graph: str) -> Mapping[str, Any]:
        return self.graphs[graph] if graph in self.graphs else self.extras[graph]

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Around what opens files of the artefact later: they are those that were there when the manifest was read.

        Raises ArtefactError for a folder that was replaced, changed or removed, whatever went wrong inside.
        """
        check_unchanged(self.folder, self.found)
        try:
            yield
        finally:
            check_unchanged(self.folder, self.found)

    @property
    def widths(self) -> Widths | None:
        """None for an artefact that was exported before they were stated."""
        stated = self.raw.get("widths")
        return None if stated is None else Widths(**{f.name: int(stated[f.name]) for f in fields(Widths)})


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check an artefact folder: versions, required keys, and that every file is there with its size.

    Raises ArtefactError naming the folder or file, the key, and what to do.
    """
    folder = Path(folder).resolve()  # so that neither another working folder nor another link changes an open model
    path = folder / MANIFEST
    if not os.path.lexists(path):
        hint = " (this is a checkpoint: run bagel-rt export first)" if (folder / "ema.safetensors").exists() else ""
        raise ArtefactError(f"{folder}: not a bagel-rt artefact, {MANIFEST} is missing{hint}")
    found = {MANIFEST: stamp(path)}
    if found[MANIFEST].size > MOST_MANIFEST:
        raise ArtefactError(f"{path}: {found[MANIFEST].size} bytes; a manifest has at most {MOST_MANIFEST}")
    data = read_bytes(path, ArtefactError)
    raw = json_of(path, data, ArtefactError, "; export the model again")
    _check_version(path, raw, "format_version", FORMAT_VERSION)
    _check_version(path, raw, "contract_version", CONTRACT_VERSION)
    try:
        manifest = _parse(folder, raw, found, hashlib.sha256(data).hexdigest())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{path}: key missing or malformed: {error}; export the model again") from None
    return replace(manifest, found={**found, **_check_files(manifest)})


def _check_version(path: Path, raw: Any, key: str, known: int) -> None:
    seen = raw.get(key) if isinstance(raw, dict) else None
    if isinstance(seen, bool) or not isinstance(seen, int):
        raise ArtefactError(f"{path}: key '{key}' must be an integer, found {seen!r}; export the model again")
    if seen != known:
        what = "a newer bagel-rt is needed" if seen > known else "export the model again"
        raise ArtefactError(f"{path}: {key} is {seen}, this version reads {known}: {what}")


def _parse(folder: Path, raw: Mapping[str, Any], found: Mapping[str, Stamp], digest: str) -> Manifest:
    if raw["task"] not in TASK_GRAPHS:
        raise ValueError(f"task {raw['task']!r}, allowed: {', '.join(TASK_GRAPHS)}")
    missing = [g for g in TASK_GRAPHS[raw["task"]] if g not in raw["graphs"]]
    if missing:
        raise KeyError(f"graphs.{missing[0]}")
    missing = [t for t in SPECIAL_TOKENS if t not in raw["tokenizer"]["special_ids"]]
    if missing:
        raise KeyError(f"tokenizer.special_ids.{missing[0]}")
    if raw["arithmetic"] not in KEPT_AS:
        raise ValueError(f"arithmetic {raw['arithmetic']!r}, allowed: {', '.join(KEPT_AS)}")
    if not isinstance(raw.get("system_prompt", ""), str):
        raise ValueError(f"system_prompt {raw['system_prompt']!r}, a text is expected")
    _check_bounds(raw)
    table = raw["embeddings"]
    return Manifest(
        folder=folder,
        task=raw["task"],
        precision=raw["precision"],
        arithmetic=raw["arithmetic"],
        model=ModelDims(**{f.name: raw["model"][f.name] for f in fields(ModelDims)}),
        vae_transform=ResizeRule(**raw["transforms"]["vae"]),
        vit_transform=ResizeRule(**raw["transforms"]["vit"]),
        tokenizer_file=raw["tokenizer"]["file"],
        special_ids={name: int(raw["tokenizer"]["special_ids"][name]) for name in SPECIAL_TOKENS},
        embeddings=TableRef(table["file"], int(table["offset"]), tuple(table["shape"]), table["dtype"]),
        graphs=raw["graphs"],
        files=raw["files"],
        raw=raw,
        found=found,
        digest=digest,
    )


def _check_bounds(raw: Mapping[str, Any]) -> None:
    """Names and sizes, before any is used (bounds.py). Raises ValueError naming the key."""
    bounds.check_files(raw["files"])
    bounds.check_graphs("graphs", raw["graphs"])
    bounds.check_graphs("extra_graphs", raw.get("extra_graphs", {}))
    bounds.check_dims(bounds.mapping("model", raw["model"]))
    if raw.get("widths") is not None:
        bounds.check_widths(bounds.mapping("widths", raw["widths"]), [f.name for f in fields(Widths)])
    for name in ("vae", "vit"):
        bounds.check_resizing(name, raw["transforms"][name])
    table, tokenizer = raw["embeddings"], bounds.plain_name("tokenizer.file", raw["tokenizer"]["file"])
    itemsize = KEPT_AS[table["dtype"]].itemsize if table["dtype"] in KEPT_AS else 1  # said by what reads the table
    bounds.check_table(table, raw["model"]["hidden_size"], itemsize, raw["files"])
    if tokenizer in raw["files"]:
        bounds.whole(f"files.{tokenizer}.size", raw["files"][tokenizer]["size"], 0, bounds.MOST_TOKENIZER)
    for name in SPECIAL_TOKENS:
        bounds.whole(f"tokenizer.special_ids.{name}", raw["tokenizer"]["special_ids"][name], 0, table["shape"][0] - 1)


def _check_files(manifest: Manifest) -> dict[str, Stamp]:
    """Every listed file as it is now: there, and of the stated size."""
    found = {name: stamp(manifest.folder / name) for name in manifest.files}
    for name, stated in manifest.files.items():
        if found[name].size != stated["size"]:
            raise ArtefactError(
                f"{manifest.folder / name}: {found[name].size} bytes, the manifest says {stated['size']}: the file is"
                " damaged; export the model again"
            )
    needed = {manifest.tokenizer_file, manifest.embeddings.file, *_graph_files(manifest)}
    for name in sorted(needed - set(manifest.files)):
        raise ArtefactError(f"{manifest.folder / MANIFEST}: {name} is used but not listed in 'files'")
    return found


def _graph_files(manifest: Manifest) -> Iterator[str]:
    for entry in (*manifest.graphs.values(), *manifest.extras.values()):
        yield entry["file"]


def sha256(path: Path, chunk: int = 1 << 22) -> Iterator[int | str]:
    """Yield the bytes read so far after each chunk (for progress), then the digest in hex."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(chunk):
            digest.update(block)
            done += len(block)
            yield done
    yield digest.hexdigest()


def model_section(dims: ModelDims) -> dict[str, Any]:
    return asdict(dims)

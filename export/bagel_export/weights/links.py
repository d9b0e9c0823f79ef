"""`--weights link`: the artefact reads the checkpoint's own files, hard-linked, instead of a copy of them.

Possible for a tensor whose stored bytes are what the artefact would write: the same type, the same layout, nothing
merged into it. The rest goes into the artefact's weight file as ever.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx_ir as ir

from bagel_engines import disk
from bagel_export.checkpoint.packings.packed import PackedTensor
from bagel_export.checkpoint.tensors import SourceTensor
from bagel_export.quantization.formats import FORMATS
from bagel_export.quantization.recipe import Recipe, Treatment
from bagel_export.weights.write import WEIGHT_FILE, parts_of, weight_bytes
from bagel_rt.errors import ExportError
from bagel_rt.files.safetensors_file import DTYPES, StoredTensor

LEAST_SHARE = 0.5  # of the bytes must be readable in place: with less, linking saves little and is refused
WHY = {
    errno.EXDEV: "the artefact's folder is on another disk",
    errno.EPERM: "the file system has no hard links, or the file is not yours to link",
    errno.EMLINK: "the file has as many links as the file system allows",
}


def linkable(tensors: Mapping[str, SourceTensor], recipe: Recipe) -> dict[str, SourceTensor]:
    """The tensors that can be read in place, by name. Raises ExportError when they are the smaller part."""
    found = {name: tensor for name, tensor in tensors.items() if _in_place(tensor, recipe[name])}
    share, total = weight_bytes(found.values(), recipe), weight_bytes(tensors.values(), recipe)
    if share < LEAST_SHARE * total:
        raise ExportError(
            f"--weights link: only {share / 2**30:.2f} of {total / 2**30:.2f} GiB can be linked:"
            f" {_reason(tensors.values(), recipe)}; use --weights copy, or a precision in which the checkpoint's"
            " bytes can be read as they are"
        )
    return found


def _in_place(tensor: SourceTensor, treatment: Treatment) -> bool:
    if not (treatment.as_it_is and tensor.as_stored):
        return False
    assert isinstance(tensor.stored, StoredTensor)
    form = FORMATS[treatment.stored]
    return form.tag == tensor.stored.dtype and tensor.stored.offset % form.dtype.itemsize == 0


def _reason(tensors: Iterable[SourceTensor], recipe: Recipe) -> str:
    """Why most of the bytes cannot be read in place, for an error message."""
    reasons: Counter[str] = Counter()
    for tensor in tensors:
        size = tensor.stored.count * DTYPES[tensor.stored.dtype].itemsize
        how = recipe[tensor.name]
        if not how.as_it_is:
            reasons["the artefact holds them rounded"] += size
        elif isinstance(tensor.stored, PackedTensor):
            reasons[f"the checkpoint holds them packed ({tensor.stored.form})"] += size
        elif tensor.update is not None:
            reasons["an adapter is merged into them"] += size
        elif FORMATS[how.stored].tag != tensor.stored.dtype:
            reasons[f"the checkpoint stores {tensor.stored.dtype}, the artefact {FORMATS[how.stored].tag}"] += size
    return reasons.most_common(1)[0][0] if reasons else "their bytes are not aligned"


def link_weights(tensors: Mapping[str, SourceTensor], folder: Path, recipe: Recipe) -> dict[str, ir.ExternalTensor]:
    """Hard-link every file these tensors lie in into `folder`; what graph initializers point to, by tensor name.

    Raises ExportError naming a file that cannot be linked, and why.
    """
    names: dict[Path, str] = {}
    for file in dict.fromkeys(tensor.stored.file for tensor in tensors.values()):
        taken = {WEIGHT_FILE, *names.values()}
        names[file] = file.name if file.name not in taken else f"{len(names)}-{file.name}"
        _link(file, folder / names[file])
    placed = {}
    for name, tensor in tensors.items():
        assert isinstance(tensor.stored, StoredTensor)
        (part,) = parts_of(tensor, recipe[name])
        placed[name] = ir.ExternalTensor(
            location=names[tensor.stored.file],
            offset=tensor.stored.offset,
            length=part.nbytes,
            dtype=FORMATS[part.format].onnx,
            shape=ir.Shape(part.shape),
            name=name,
            base_dir=str(folder),
        )
    return placed


def _link(file: Path, target: Path) -> None:
    try:
        disk.link(file.resolve(), target)  # a hub snapshot's files are symbolic links; the file itself is wanted
    except OSError as error:
        why = WHY.get(error.errno or 0, error.strerror or str(error))
        raise ExportError(
            f"{file}: cannot be linked into {target.parent.parent}: {why}; choose an --out where it can, or use"
            " --weights copy"
        ) from None

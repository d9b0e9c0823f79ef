"""A weight file's tensors as whatever packed them left them, made readable: the one place that knows every form."""

from __future__ import annotations

from pathlib import Path

from bagel_export.checkpoint.packings import bitsandbytes, foreign, fp8, gguf_file, gptq
from bagel_export.checkpoint.packings.packed import PackedTensor, Stored
from bagel_export.checkpoint.shards import GGUF, read_weights
from bagel_rt.errors import CheckpointError


def read_unpacked(path: Path) -> dict[str, Stored]:
    """Every tensor of a weight file or an index by its key, packed ones by the name of what they hold.

    Headers are read, values are not. Raises CheckpointError naming file and key.
    """
    if path.name.endswith(GGUF):
        found = gguf_file.read_gguf(path)
        foreign.check_known(found)
        return dict(found)
    stored = read_weights(path)
    foreign.check_known(stored)
    rest, packed = fp8.unpacked(stored, path.parent)
    for split in (bitsandbytes.unpacked(rest), gptq.unpacked(rest, path.parent)):
        for name in packed.keys() & split[1].keys():
            raise CheckpointError(f"{path}: tensor '{name}' is packed in two ways: keep one")
        rest, packed = {k: t for k, t in rest.items() if k in split[0]}, packed | split[1]
    return _joined(path, rest, packed)


def _joined(path: Path, rest: dict, packed: dict[str, PackedTensor]) -> dict[str, Stored]:
    for name in rest.keys() & packed.keys():
        raise CheckpointError(f"{path}: tensor '{name}' is there twice, plain and packed: keep one of them")
    return {**rest, **packed}

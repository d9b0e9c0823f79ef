"""`bagel-rt verify` beyond the files: an artefact against its checkpoint in PyTorch, and against a recorded run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bagel_export.proof.cases import Case, Trace, built_in
from bagel_export.proof.findings import Finding, Limits, compared
from bagel_export.proof.of_artefact import Artefact, check_same_model
from bagel_export.proof.records import read_record
from bagel_rt.api import Bagel
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.errors import InputError

if TYPE_CHECKING:
    from bagel_export.checkpoint.sources import Asked
    from bagel_rt.adapters.read import Loras

ENCODERS = ("moments", "latent", "out", "connector")


@dataclass(frozen=True)
class Run:
    """A case with what a side computed, and the type it computed in."""

    case: Case
    trace: Trace
    precision: str


def recorded(manifest: Manifest, path: Path) -> Run:
    """A recorded run. Raises InputError when the file is no record or the artefact cannot do what it asks."""
    case, trace, precision = read_record(path)
    if case.output == "image" and manifest.task != "full":
        raise InputError(f"{path}: records a picture; {manifest.folder} was exported with --task understand")
    return Run(case, trace, precision)


def referenced(
    manifest: Manifest, ckpt: str | Path | Asked, lora: Loras | None, layers: bool, record: Run | None
) -> Iterator[Run]:
    """The built-in cases, or the recorded one, in PyTorch, one after the other.

    Raises CheckpointError for the checkpoint, InputError when it is not the artefact's or does not fit in memory.
    """
    from bagel_export.artefact.export import model_dims
    from bagel_export.checkpoint.open import open_checkpoint
    from bagel_export.proof.of_reference import opened

    checkpoint = open_checkpoint(ckpt, manifest.task, lora)
    check_same_model(manifest.model, model_dims(checkpoint), checkpoint.name)
    with opened(checkpoint, layers) as reference:
        for case in [record.case] if record else built_in(manifest):
            yield Run(case, reference.trace(case), "float32")


def compare(bagel: Bagel, run: Run) -> Iterator[Finding]:
    """The artefact's stages against a run's."""
    arithmetic = bagel.graphs.engine.info.arithmetic
    limits = Limits.between(run.precision, bagel.manifest.precision, arithmetic)
    yield from Artefact(bagel).compare(run.case, run.trace, limits)


def compare_encoders(reference: Run, record: Run) -> Iterator[Finding]:
    """The reference's ViT, connector and VAE encoder, each for itself, against a record's."""
    limits = Limits.between(reference.precision, record.precision)
    for key in sorted(reference.trace.keys() & record.trace.keys()):
        if key.startswith(("vit", "vae_encode")) and key.rsplit(".", 1)[1] in ENCODERS:
            got, wanted = reference.trace[key], record.trace[key].astype(np.float32)
            yield compared(record.case.name, f"PyTorch, {key}", got, wanted, limits.stage)

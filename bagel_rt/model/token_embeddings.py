"""The token embedding table: rows are read from the memory-mapped weight file, the table is never loaded whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bagel_engines.disk import mapped
from bagel_engines.number_formats import KEPT_AS, widened
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.errors import ArtefactError


class TokenEmbeddings:
    def __init__(self, manifest: Manifest):
        table = manifest.embeddings
        if table.dtype not in KEPT_AS:
            raise ArtefactError(
                f"{table.file}: the embedding table is {table.dtype}; this version reads {', '.join(KEPT_AS)}"
            )
        path = manifest.folder / table.file
        try:
            self.table = mapped(path, KEPT_AS[table.dtype], table.offset, table.shape)
        except OSError as error:
            raise ArtefactError(f"{path}: cannot be mapped into memory: {error.strerror or error}") from error
        self.dtype = table.dtype  # a key of number_formats.KEPT_AS
        ids = manifest.special_ids
        self.markers = self.rows((ids["vision_start"], ids["vision_end"]))  # (2, hidden)

    def close(self) -> None:
        """Let go of the mapped file."""
        self.table = np.empty((0, self.table.shape[1]), self.table.dtype)

    def rows(self, ids: Sequence[int]) -> np.ndarray:
        """(len(ids), hidden) float32."""
        return widened(np.array(self.table[list(ids)]), self.dtype)

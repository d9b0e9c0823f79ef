"""A tensor of the model and where its values come from: read from the mapped file, converted, and merged with a LoRA
update, a piece at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bagel_export.checkpoint.packings.packed import PackedTensor, Stored
from bagel_rt.adapters.products import PIECE, LowRank


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of the model; a Conv2d patch embedding is read as a Linear one, an adapter's update is added."""

    name: str
    stored: Stored
    shape: tuple[int, ...]
    update: LowRank | None = None

    @property
    def as_stored(self) -> bool:
        """Whether the file's own bytes, in their own order, are the tensor's values."""
        return self.update is None and self.shape == self.stored.shape and not isinstance(self.stored, PackedTensor)

    def chunks(self, limit: int = PIECE) -> Iterator[np.ndarray]:
        """The values in float32 as flat pieces of at most about `limit` numbers, in order."""
        if isinstance(self.stored, PackedTensor) and self.shape == self.stored.shape:
            pieces = self._unpacked(self.stored, limit)
        else:
            pieces = self._mapped(limit)
        columns, start = math.prod(self.shape[1:]), 0
        for piece in pieces:
            if self.update is not None:
                piece += self.update.rows(start // columns, (start + piece.size) // columns).reshape(-1)
            start += piece.size
            yield piece

    def _mapped(self, limit: int) -> Iterator[np.ndarray]:
        values = self.stored.mapped()
        if self.shape != self.stored.shape:
            values = np.asarray(values).transpose(0, 2, 3, 1)  # (out, c, ph, pw) -> channel fastest
        flat = values.reshape(-1)
        columns = math.prod(self.shape[1:])
        step = max(1, limit // columns) * columns if self.update else limit  # an update is added by whole rows
        for start in range(0, flat.size, step):
            yield np.asarray(flat[start : start + step]).astype(np.float32)

    @staticmethod
    def _unpacked(packed: PackedTensor, limit: int) -> Iterator[np.ndarray]:
        step, count = max(1, limit // packed.columns), packed.count // packed.columns
        for start in range(0, count, step):
            yield packed.rows(start, min(start + step, count)).reshape(-1)

    def array(self) -> np.ndarray:
        """All values in float32, as a new array of `shape`."""
        out, done = np.empty(math.prod(self.shape), np.float32), 0
        for piece in self.chunks():
            out[done : done + piece.size] = piece
            done += piece.size
        return out.reshape(self.shape)

    def stored_rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop of a matrix as stored, in float32, without an adapter's update."""
        if isinstance(self.stored, PackedTensor):
            return self.stored.rows(start, stop)
        return np.asarray(self.stored.mapped()[start:stop]).astype(np.float32)

    def picked(self, rows: Sequence[int]) -> np.ndarray:
        """Some rows of a matrix in float32, (rows, columns), without reading the others."""
        out = np.concatenate([self.stored_rows(row, row + 1) for row in rows])
        if self.update is not None:
            out += np.concatenate([self.update.rows(row, row + 1) for row in rows])
        return out

    def columns(self, which: slice) -> np.ndarray:
        """Some columns (inputs) of a matrix in float32, (outputs, columns), without converting the rest where
        possible."""
        if self.as_stored and (which.start, which.stop) != (0, self.shape[1]):
            return self.stored.mapped()[:, which].astype(np.float32)
        return self.array()[:, which]

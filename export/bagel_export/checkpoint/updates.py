"""What adapters make of a matrix, read a few rows at a time: sums of products, and DoRA's lengths.

An update has `rows(start, stop)`: what is added to those rows of the stored matrix, float32 (rows, columns).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from bagel_export.checkpoint.tensors import SourceTensor
from bagel_rt.adapters.products import PIECE, LowRank
from bagel_rt.adapters.read import Adapter, Change, check_fits
from bagel_rt.files.safetensors_file import StoredTensor


class Update(Protocol):
    def rows(self, start: int, stop: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Sum:
    """One update after another."""

    first: Update
    second: Update

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self.first.rows(start, stop) + self.second.rows(start, stop)


@dataclass(frozen=True)
class Decomposed:
    """DoRA (arXiv 2402.09353, equation 5): W' = magnitude * (W + product) / |W + product|.

    Lengths are those of rows (outputs), as peft takes them, or of columns (inputs), as LyCORIS does by default;
    `by_columns` says which. `base` is W, with what other adapters made of it before.
    """

    base: SourceTensor
    product: LowRank
    magnitude: StoredTensor
    by_columns: bool

    def rows(self, start: int, stop: int) -> np.ndarray:
        plain, directed = self._directed(start, stop)
        lengths = self._column_lengths if self.by_columns else np.linalg.norm(directed, axis=1, keepdims=True)
        wanted = self._magnitude if self.by_columns else self._magnitude[start:stop, None]
        return directed * np.divide(wanted, lengths, out=np.zeros_like(lengths), where=lengths > 0) - plain

    @cached_property
    def _magnitude(self) -> np.ndarray:
        return np.asarray(self.magnitude.mapped()).astype(np.float32).reshape(-1)

    @cached_property
    def _column_lengths(self) -> np.ndarray:
        """(columns,), of the whole matrix."""
        count, columns = self.base.shape
        step, squares = max(1, PIECE // columns), np.zeros(columns)
        for start in range(0, count, step):
            squares += np.square(self._directed(start, min(start + step, count))[1], dtype=np.float64).sum(axis=0)
        return np.sqrt(squares).astype(np.float32)

    def _directed(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the stored matrix, and of W + product."""
        plain = self.base.stored_rows(start, stop)
        before = 0 if self.base.update is None else self.base.update.rows(start, stop)
        return plain, plain + before + self.product.rows(start, stop)


def merged(adapter: Adapter, tensors: Mapping[str, SourceTensor]) -> dict[str, SourceTensor]:
    """The tensors with an adapter's updates. Raises CheckpointError where a shape does not fit."""
    return {name: _changed(tensor, adapter.updates.get(name, ())) for name, tensor in tensors.items()}


def _changed(tensor: SourceTensor, changes: Sequence[Change]) -> SourceTensor:
    for change in changes:
        check_fits(change, tensor.name, tensor.shape)
        update = after(tensor, change.product, change.magnitude, change.by_columns)
        tensor = replace(tensor, update=update)
    return tensor


def after(base: SourceTensor, product: LowRank, magnitude: StoredTensor | None, by_columns: bool) -> Update:
    """The update of a tensor that has perhaps one already, by one adapter more."""
    if magnitude is not None:
        return Decomposed(base, product, magnitude, by_columns)
    return product if base.update is None else Sum(base.update, product)

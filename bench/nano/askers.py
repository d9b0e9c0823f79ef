"""Cases asked of an artefact by one process, or by several with a core each. The answers come in the cases' order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import bagel_rt
from bagel_rt.api import Bagel

C, R = TypeVar("C"), TypeVar("R")
_open: tuple[Callable[..., Any], Bagel]  # in a worker: how it asks, and whom


@dataclass(frozen=True)
class Model:
    """What cases are asked of."""

    folder: Path
    backend: str = "onnxruntime"
    arithmetic: str | None = None

    def load(self, threads: int | None = None) -> Bagel:
        return bagel_rt.load(self.folder, self.backend, arithmetic=self.arithmetic, threads=threads)


def asked(model: Model, ask: Callable[[Bagel, C], R], cases: Sequence[C], workers: int = 1) -> Iterator[R]:
    """ask(bagel, case) of each case. It and its results are sent between processes where there are several workers."""
    if workers == 1:
        with model.load() as bagel:
            for case in cases:
                yield ask(bagel, case)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _begin, (model, ask)) as pool:
        yield from pool.imap(_answer, cases)


def _begin(model: Model, ask: Callable[..., Any]) -> None:
    global _open
    _open = ask, model.load(threads=1)


def _answer(case: Any) -> Any:
    ask, bagel = _open
    return ask(bagel, case)

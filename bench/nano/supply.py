"""What training needs for a step, made ahead of it in worker processes; the same whoever makes it, and when."""

from __future__ import annotations

import functools
import multiprocessing
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.pool import AsyncResult
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
from tokenizers import Tokenizer

from bagel_rt.artefact.manifest import ResizeRule
from bench.nano.layout import Laid, Layout
from bench.nano.pictures import received
from bench.nano.shares import Shares
from bench.nano.tasks import TASKS
from bench.nano.world import random_scene

T = TypeVar("T")
AHEAD = 3  # steps that each worker is given before they are asked for
_recipe: Callable[[int], Any]


@dataclass(frozen=True)
class Recipe:
    """Samples of a step: `counts` by task, by this seed and the step's number, whatever was made before."""

    tokenizer: str  # JSON
    latent_side: int
    rule: ResizeRule  # the ViT's
    patch: int
    draws: int
    round: int
    counts: tuple[tuple[str, int], ...]
    shares: Shares
    seed: int

    def __call__(self, step: int) -> dict[str, list[Laid]]:
        layout, rng = _layout(self), random.Random(f"{self.seed} made {step}")
        return {n: [layout.lay(TASKS[n](rng, self.shares), rng) for _ in range(k)] for n, k in self.counts}


@functools.lru_cache(2)
def _layout(recipe: Recipe) -> Layout:
    """Made once in a process: it remembers the texts that it has encoded."""
    tokenizer = Tokenizer.from_str(recipe.tokenizer)
    return Layout(tokenizer, recipe.latent_side, recipe.rule, recipe.patch, recipe.draws, recipe.round)


@dataclass(frozen=True)
class Pictures:
    """Pictures (count, SIDE, SIDE, 3) uint8 of a step, a share of them not drawn plainly."""

    count: int
    share: float
    seed: int

    def __call__(self, step: int) -> np.ndarray:
        rng, shares = random.Random(f"{self.seed} pictures {step}"), Shares(pictures=self.share)
        return np.stack([received(shares.drawn(random_scene(rng), rng)) for _ in range(self.count)])


class Supply(Generic[T]):
    """recipe(step) for one step after the other, made ahead by `workers` processes; without any, when asked for."""

    def __init__(self, recipe: Callable[[int], T], workers: int):
        self._recipe, self._ahead = recipe, workers * AHEAD
        self._due: dict[int, AsyncResult[T]] = {}
        self._pool = multiprocessing.get_context("spawn").Pool(workers, _begin, (recipe,)) if workers else None

    def __call__(self, step: int) -> T:
        if self._pool is None:
            return self._recipe(step)
        for later in range(step, step + self._ahead):
            if later not in self._due:
                self._due[later] = self._pool.apply_async(_make, (later,))
        return self._due.pop(step).get()

    def __enter__(self) -> Supply[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()


def _begin(recipe: Callable[[int], Any]) -> None:
    """In a worker: Ctrl-C is the main process's to answer."""
    global _recipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _recipe = recipe


def _make(step: int) -> Any:
    return _recipe(step)

"""Samples that training draws its batches from, with their latents, so that one encoding serves several steps."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from bench.nano.layout import Laid

WITHOUT_LATENTS = ("ask", "left in words")  # tasks whose pictures are only looked at: made anew for each step
Made = Mapping[str, list[Laid]]  # of each task


def fresh_counts(mix: Mapping[str, int], fresh: int) -> dict[str, int]:
    """Samples made for a step, by task: `fresh` in the mix's proportions, and all of those without latents."""
    share = sum(n for name, n in mix.items() if name not in WITHOUT_LATENTS)
    return {name: n if name in WITHOUT_LATENTS else -(-fresh * n // share) for name, n in mix.items()}


class Bank:
    """Means and deviations of latents, (rows, 2, 16, h, w) in float16; a row is taken by a picture, and given back."""

    def __init__(self, encode: Callable[[np.ndarray], Tensor], rows: int = 1024):
        self.encode, self._first = encode, rows
        self.values = torch.zeros(0)
        self._free: list[int] = []

    def take(self, laid: list[Laid]) -> None:
        """Encode what the samples show, and note in each where it lies."""
        shown = [one.shown for one in laid]
        encoded = self.encode(np.concatenate(shown)).half()
        self._reserve(encoded)
        rows = [self._free.pop() for _ in range(len(encoded))]
        self.values[torch.tensor(rows, device=encoded.device)] = encoded
        ends = np.cumsum([len(s) for s in shown])
        for one, end in zip(laid, ends, strict=True):
            one.rows, one.shown = tuple(rows[end - len(one.shown) : end]), one.shown[:0]

    def give_back(self, one: Laid) -> None:
        self._free += one.rows

    def _reserve(self, encoded: Tensor) -> None:
        if not len(self.values):
            self.values = encoded.new_zeros(0, *encoded.shape[1:])
        if (lacking := len(encoded) - len(self._free)) > 0:
            more = max(lacking, len(self.values), self._first)
            self._free += range(len(self.values), len(self.values) + more)
            self.values = torch.cat([self.values, self.values.new_zeros(more, *self.values.shape[1:])])


class Pools:
    """The newest samples of each task: `room` of all that have latents, in the mix's proportions."""

    def __init__(self, mix: Mapping[str, int], room: int, bank: Bank):
        self.mix, self.bank = dict(mix), bank
        share = sum(n for name, n in mix.items() if name not in WITHOUT_LATENTS)
        self.rooms = {n: k if n in WITHOUT_LATENTS else max(k, room * k // share) for n, k in mix.items()}
        self.pools: dict[str, deque[Laid]] = {name: deque() for name in mix}

    def add(self, made: Made) -> None:
        with_latents = [one for name, laid in made.items() if name not in WITHOUT_LATENTS for one in laid]
        if with_latents:
            self.bank.take(with_latents)
        for name, laid in made.items():
            pool = self.pools[name]
            pool.extend(laid)
            while len(pool) > self.rooms[name]:
                self.bank.give_back(pool.popleft())

    def batch(self, rng: random.Random) -> list[Laid]:
        """Those without latents as they came, of the others any."""
        return [
            one
            for name, pool in self.pools.items()
            for one in (pool if name in WITHOUT_LATENTS else rng.choices(pool, k=self.mix[name]))
        ]

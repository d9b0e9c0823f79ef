"""The next token from logits: the likeliest, or a draw."""

from __future__ import annotations

import numpy as np


def likeliest(logits: np.ndarray) -> int:
    """The token of the largest of logits (vocab,)."""
    return int(np.argmax(logits))


def drawn(
    logits: np.ndarray, random: np.random.Generator, temperature: float, top_k: int | None, top_p: float | None
) -> int:
    """A token drawn from logits (vocab,) after temperature, top_k and top_p; None leaves the last two out."""
    scores = logits.astype(np.float64) / temperature
    order = np.argsort(-scores, kind="stable")[:top_k]
    chances = np.exp(scores[order] - scores[order[0]])
    chances /= chances.sum()
    if top_p is not None:  # the smallest set that reaches top_p
        count = int(np.searchsorted(np.cumsum(chances), top_p)) + 1
        order, chances = order[:count], chances[:count] / chances[:count].sum()
    return int(random.choice(order, p=chances))

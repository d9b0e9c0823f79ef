"""The next token from logits: the likeliest, or a draw, as torch.multinomial makes it."""

from __future__ import annotations

import numpy as np

from bagel_rt.sampling.torch_noise import TorchNoise


def likeliest(logits: np.ndarray) -> int:
    """The token of the largest of logits (vocab,)."""
    return int(np.argmax(logits))


def drawn(logits: np.ndarray, noise: TorchNoise, temperature: float, top_k: int | None, top_p: float | None) -> int:
    """A token drawn from logits (vocab,) after temperature, top_k and top_p; None leaves the last two out.

    Without them it is torch.multinomial(softmax(logits / temperature), 1) in float32 on a CPU: every token is given a
    time, exponential with its probability as rate, and the first one wins.
    """
    chances = _softmax(logits, temperature)
    if top_k is not None or top_p is not None:
        chances = _likeliest_alone(chances, top_k, top_p)
    times = noise.exponential(len(chances))
    with np.errstate(divide="ignore", invalid="ignore"):
        return int(np.argmax(chances / times))


def _softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (vocab,) in float32. Of a temperature too small for float32, the limit: the likeliest is sure."""
    with np.errstate(all="ignore"):
        scores = logits.astype(np.float32) / np.float32(temperature)
    if not np.isfinite(scores).all():
        return (np.arange(len(logits)) == likeliest(logits)).astype(np.float32)
    chances = np.exp(scores - scores.max())
    return chances / chances.sum(dtype=np.float32)


def _likeliest_alone(chances: np.ndarray, top_k: int | None, top_p: float | None) -> np.ndarray:
    """The chances of the top_k likeliest, and of those the fewest that reach top_p of their sum; the others are 0."""
    order = np.argsort(-chances, kind="stable")[:top_k]
    if top_p is not None:
        reached = np.cumsum(chances[order], dtype=np.float64)
        order = order[: int(np.searchsorted(reached / reached[-1], top_p)) + 1]
    kept = np.zeros_like(chances)
    kept[order] = chances[order]
    return kept

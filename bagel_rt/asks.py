"""What a turn yields beside its events: what it wants of the model. Whoever runs the turn sees to it and sends the
answer back, so that the rows of several turns may be evaluated in one call (conversation/scheduler.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bagel_engines import Places
from bagel_rt.adapters.choice import PLAIN, Choice
from bagel_rt.kv_cache.page_table import Sequence

# logits behind each token (tokens, vocab), or what is known of them where the likeliest token alone is wanted
Behind = np.ndarray | Places


class Evaluator(Protocol):
    """What answers TextRows (model/text_evaluator.py)."""

    def alone(self, ask: TextRows) -> Behind | None:
        """Its answer, by a call of its own. Raises BagelError; then some of its tokens may stand in its sequence."""
        ...

    def together(self, asks: Iterable[TextRows]) -> Mapping[TextRows, Behind | Exception | None]:
        """Answers, or errors, of those that are done after one call for all; the others are to be asked again."""
        ...


@dataclass(eq=False)
class TextRows:
    """Tokens of text to be evaluated behind a sequence, each seeing those before it; they are added to the sequence.

    The answer is the logits behind each token (tokens, vocab) where `logits` is set, else None. Where `likeliest` is
    set, too, it may be their Places: then they stay on the device that computed them.
    """

    evaluator: Evaluator
    ids: tuple[int, ...]
    sequence: Sequence
    position: int  # position id of the first token
    logits: bool
    done: int = 0  # tokens that are in the sequence already: long texts go there in pieces
    adapter: Choice = PLAIN  # only those that choose the same are evaluated in one call
    likeliest: bool = False
    merged: bool = False  # whether some of them were evaluated in one call with others' rows


class Alone:
    """What comes next is work in calls of its own, such as a denoising step. The answer is None."""


ALONE = Alone()
Ask = TextRows | Alone


def answer_alone(ask: Ask) -> Any:
    """The answer where nobody else waits."""
    return ask.evaluator.alone(ask) if isinstance(ask, TextRows) else None

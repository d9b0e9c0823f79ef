"""Prompt lookup: guesses how a text goes on by finding its last tokens earlier in what was read and written.

Plans and captions repeat words of the question and of themselves. A guess costs no draft model, only rows of the next
step, and the text decoder keeps a guessed token only where it is the one the model chooses.
Source: Saxena 2023, "Prompt Lookup Decoding".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NGRAMS = (3, 2)  # tokens in a row that must be found again; the longer one is tried first
MOST = 7  # tokens of a guess: with the token before them they are the 8 rows that TensorRT plans decode at once


class PromptLookup:
    """The tokens so far, and where each run of two or three of them was followed by something."""

    def __init__(self, ids: Iterable[int], most: int):
        """ids: what was read; most: tokens of a guess at most, 0 for none."""
        self._ids: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}  # a run of tokens -> where the token behind its last one is
        self._most = most
        self._reach = min(most, 2)  # as many as were right of the last guess and two more, so that failures stay cheap
        for token in ids:
            self.push(token)

    def push(self, token: int) -> None:
        """Add a token that was written."""
        if not self._most:
            return
        for n in NGRAMS:
            if len(self._ids) >= n:
                self._next[tuple(self._ids[-n:])] = len(self._ids)
        self._ids.append(token)

    def guess(self, room: int) -> tuple[int, ...]:
        """Up to `room` tokens that may come next, none where the last ones are new."""
        length = min(self._reach, room)
        if length <= 0:
            return ()
        for n in NGRAMS:
            place = self._next.get(tuple(self._ids[-n:]))
            if place is not None:
                return tuple(self._ids[place : place + length])
        return ()

    def judge(self, guess: Sequence[int], chosen: Iterable[int]) -> None:
        """Add the tokens that were chosen after a guess, and let the next guess be as long as this one was right."""
        chosen = list(chosen)
        if guess:
            right = next((i for i, pair in enumerate(zip(guess, chosen, strict=False)) if pair[0] != pair[1]), None)
            self._reach = min(self._most, (min(len(guess), len(chosen)) if right is None else right) + 2)
        for token in chosen:
            self.push(token)

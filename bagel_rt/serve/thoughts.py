"""Text that begins with a thought between <think> and </think>, told apart while it is written."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


class Thoughts:
    """Takes an answer piece by piece, and gives back what is thought and what is said of it.

    What does not begin with <think> is said from its beginning on.
    """

    def __init__(self) -> None:
        self._held, self._state = "", "before"
        self._begun = False  # whether anything of the thought was given out

    def push(self, piece: str, last: bool = False) -> tuple[str, str]:
        """(thought, said) that the piece completes; what may be half of a mark is held back until the last."""
        self._held += piece
        thought = said = ""
        if self._state == "before":
            self._begin(last)
        if self._state == "thinking":
            thought = self._thought(last)
        if self._state in ("behind", "saying"):
            said = self._said()
        return thought, said

    def _begin(self, last: bool) -> None:
        text = self._held.lstrip()
        if text.startswith(OPEN):
            self._held, self._state = text[len(OPEN) :], "thinking"
        elif last or not OPEN.startswith(text):
            self._state = "saying"

    def _thought(self, last: bool) -> str:
        if not self._begun:
            self._held = self._held.lstrip("\n")
        thought, mark, rest = self._held.partition(CLOSE)
        if mark:
            self._held, self._state = rest, "behind"
            return thought
        held = 0 if last else _begun(self._held, CLOSE)
        thought, self._held = self._held[: len(self._held) - held], self._held[len(self._held) - held :]
        self._begun = self._begun or bool(thought)
        return thought

    def _said(self) -> str:
        text = self._held.lstrip() if self._state == "behind" else self._held  # the mark's line ends with it
        self._held = ""
        if text:
            self._state = "saying"
        return text


def told_apart(text: str) -> tuple[str | None, str]:
    """(thought or None, said) of a whole text."""
    thought, said = Thoughts().push(text, last=True)
    return thought.strip() or None, said


def _begun(text: str, mark: str) -> int:
    """How many letters at the end of a text may be the beginning of a mark."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-n:])), 0)

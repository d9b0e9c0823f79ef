"""Streaming text: generated token ids to pieces of text that end at whole characters."""

from __future__ import annotations

import re

from bagel_rt.artefact.manifest import SPECIAL_TOKENS
from bagel_rt.inputs.tokenizer import TextCodec

INCOMPLETE = "\ufffd"  # what a decoder shows for bytes that are no character, or not yet
MARKERS = (SPECIAL_TOKENS["im_start"], SPECIAL_TOKENS["im_end"])
AT_MARKERS = re.compile("(" + "|".join(map(re.escape, MARKERS)) + ")")  # the group makes split() keep the markers


class TextPieces:
    """Turns generated ids into pieces whose concatenation is TextCodec.text(ids), never splitting a character.

    Held back: tokens until their bytes end with a whole character, and the beginning of what may become a marker,
    because the official reading of a text ends at the first marker that follows im_start.
    """

    def __init__(self, codec: TextCodec):
        self._codec = codec
        self._ids: list[int] = []  # not decoded yet
        self._text = ""  # decoded, not given out yet
        self._inside = False  # im_start was seen
        self._ended = False

    def push(self, token: int) -> str:
        """The text that one more token makes readable, perhaps ""."""
        self._ids.append(token)
        decoded = self._codec.decode(self._ids)
        if decoded.endswith(INCOMPLETE):
            return ""
        self._ids.clear()
        self._text += decoded
        return self._take(len(self._text) - _held_back(self._text))

    def finish(self) -> str:
        """What was held back, once no more tokens come."""
        self._text += self._codec.decode(self._ids)
        self._ids.clear()
        return self._take(len(self._text))

    def _take(self, count: int) -> str:
        """Cut `count` characters off the text's beginning and return those that are to be read."""
        ready, self._text = self._text[:count], self._text[count:]
        read = ""
        for part in AT_MARKERS.split(ready):
            if part not in MARKERS:
                read += part if self._inside and not self._ended else ""
            elif self._inside or part == SPECIAL_TOKENS["im_end"]:
                self._ended = True
            else:
                self._inside = True
        return read


def _held_back(text: str) -> int:
    """Length of the text's longest end that begins a marker without completing it."""
    longest = max(map(len, MARKERS)) - 1
    lengths = range(min(longest, len(text)), 0, -1)
    return next((n for n in lengths if any(m.startswith(text[-n:]) and m != text[-n:] for m in MARKERS)), 0)

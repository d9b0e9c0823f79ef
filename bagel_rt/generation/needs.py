"""What a request needs, as estimates say and the waiting line counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """At most. tokens: of context in the cache; own: bytes of them; shared: bytes that requests at once take only once
    (the program, weights, the working memory of a call). keeps: it is a session's turn, whose context stays."""

    tokens: int
    own: int = 0
    shared: int = 0
    keeps: bool = False

"""A model that writes given texts: its networks compute, and what they would say is replaced by what a test says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bagel_rt.generation import text_decoder


@dataclass
class Spelled:
    """`logits`: of each token that was asked for, in order; what the contexts were is in them."""

    waiting: list[int] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)

    def next_token(self, logits, options, noise) -> int:
        self.logits.append(np.array(logits))
        return self.waiting.pop(0)

    def say(self, codec, texts: Sequence[str | tuple[str, str]], stop_at: str | None = None) -> None:
        """Each text up to im_end, or to the stop string it ends with; of a pair the second is the token behind it."""
        for one in texts:
            text, behind = one if isinstance(one, tuple) else (one, None)
            ids = codec.segment(text)[1:]
            self.waiting += ids[:-1] if stop_at is not None and text.endswith(stop_at) else ids
            self.waiting += [] if behind is None else [codec.token_id(behind)]


def spell(monkeypatch) -> Spelled:
    spelled = Spelled()
    monkeypatch.setattr(text_decoder, "next_token", spelled.next_token)
    return spelled

"""Greedy texts on a device: a token's call is begun before anybody has read the token.

The likeliest token is known to the device first. So the call that evaluates it is put behind the one that found it,
and the host reads the token while the device computes. Nothing of that call enters the text's sequence until somebody
asks for just this token behind just these; else it is forgotten, and has cost a token's time on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bagel_engines import Begun, Held, Places, Tensor, TokenChain
from bagel_rt.asks import TextRows
from bagel_rt.engine_errors import named_failures
from bagel_rt.errors import EngineError
from bagel_rt.kv_cache.page_pool import PagePool

# of one row (1, hidden), behind what an ask's sequence has now, at a position: its new_kv, and the logits behind it
Evaluate = Callable[[Tensor, TextRows, int], tuple[Tensor, Held]]


@dataclass(frozen=True)
class _Call:
    new_kv: Tensor
    found: Begun  # the token behind its own


@dataclass(frozen=True)
class _Expected:
    """A call that was begun, and who it is for."""

    call: _Call
    ask: TextRows  # the one before
    length: int  # of its sequence
    token: int

    def is_for(self, ask: TextRows) -> bool:
        before = self.ask
        same = ask.sequence is before.sequence and ask.adapter == before.adapter
        return same and (ask.sequence.length, ask.position) == (self.length, before.position + 1) and self._asks(ask)

    def _asks(self, ask: TextRows) -> bool:
        return ask.ids == (self.token,) and ask.likeliest


class ReadAhead:
    def __init__(self, chain: TokenChain, pool: PagePool, evaluate: Evaluate):
        self._chain, self._pool, self._evaluate = chain, pool, evaluate
        self._expected: _Expected | None = None

    def answer(self, ask: TextRows, row: Callable[[], np.ndarray]) -> Places:
        """The answer of an ask for the likeliest token behind one token. row: what that is evaluated from."""
        expected, self._expected = self._expected, None
        begun = expected.call if expected is not None and expected.is_for(ask) else None
        call = begun or self._called(row(), ask, ask.position)
        self._pool.append(ask.sequence, call.new_kv)
        ahead = self._attempted(call.found.row, ask)
        with named_failures():
            places = call.found.places()
        if ahead is not None:
            self._expected = _Expected(ahead, ask, ask.sequence.length, int(places.columns[0]))
        return places

    def forget(self) -> None:
        """What was begun is for nobody: sequences are changed in another way."""
        self._expected = None

    def _called(self, row: Tensor, ask: TextRows, position: int) -> _Call:
        new_kv, logits = self._evaluate(row, ask, position)
        with named_failures():
            return _Call(new_kv, self._chain.begin(logits))

    def _attempted(self, row: Held, ask: TextRows) -> _Call | None:
        """None where there is no memory for it: nobody has asked for it."""
        try:
            return self._called(row, ask, ask.position + 1)
        except EngineError:
            return None

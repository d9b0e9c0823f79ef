"""Answers TextRows: text through the understanding expert, of one turn or of many in one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from bagel_engines import EngineFailure, Held, Largest, Places, Tensor, TokenChain
from bagel_rt.artefact import contract
from bagel_rt.asks import Behind, TextRows
from bagel_rt.engine_errors import named_failures
from bagel_rt.kv_cache.page_pool import PagePool
from bagel_rt.model.block_mask import block_mask
from bagel_rt.model.graphs import Graphs
from bagel_rt.model.read_ahead import ReadAhead
from bagel_rt.model.step_graphs import Experts, TextCall, causal_mask
from bagel_rt.model.token_embeddings import TokenEmbeddings

PIECE = 256  # rows of read texts in a call that others share: more would let their next tokens wait for long
HEAD_ROWS = 64  # rows of a call of the head; on a device 8, which TensorRT's plans are built for
Answers = dict[TextRows, Behind | Exception | None]


@dataclass(frozen=True)
class Piece:
    """The next `count` tokens of an ask, as far as they are evaluated in one call."""

    ask: TextRows
    count: int

    @property
    def ids(self) -> tuple[int, ...]:
        return self.ask.ids[self.ask.done : self.ask.done + self.count]

    @property
    def positions(self) -> np.ndarray:
        first = self.ask.position + self.ask.done
        return np.arange(first, first + self.count)


class TextEvaluator:
    def __init__(self, graphs: Graphs, experts: Experts, embeddings: TokenEmbeddings, pool: PagePool):
        self._graphs, self._experts, self._embeddings, self._pool = graphs, experts, embeddings, pool
        self._largest = Largest(graphs.engine)
        self._head_rows = 8 if graphs.engine.needs is None else HEAD_ROWS
        self._ahead: ReadAhead | None = None
        self._may_be_ahead = True  # until the engine has said that it cannot

    def close(self) -> None:
        """Let go of what lies on the engine's device."""
        self._ahead, self._may_be_ahead = None, False

    def alone(self, ask: TextRows) -> Behind | None:
        """See asks.Evaluator."""
        if ask.likeliest and len(ask.ids) == 1 and (ahead := self._read_ahead()) is not None:
            return ahead.answer(ask, lambda: self._embeddings.rows(ask.ids))
        self._forget()
        piece = Piece(ask, len(ask.ids) - ask.done)
        call = self._call(self._embeddings.rows(piece.ids), ask, piece.positions)
        if not ask.logits:
            self._pool.append(ask.sequence, self._experts.und_kv(call))
            return None
        out, new_kv = self._experts.und_held(call)
        self._pool.append(ask.sequence, new_kv)
        return self._behind(out, ask.likeliest)

    def _call(self, rows: Tensor, ask: TextRows, positions: np.ndarray) -> TextCall:
        """Rows behind all that an ask's sequence has now."""
        past, rope = ask.sequence, self._experts.rope.at(positions)
        mask = causal_mask(past.length, len(positions))
        return TextCall(rows, rope, self._pool, self._pool.slots(past), mask, ask.adapter)

    def _read_ahead(self) -> ReadAhead | None:
        if self._may_be_ahead and self._ahead is None:
            try:
                chain = TokenChain.on(self._graphs.engine, self._embeddings.table, self._embeddings.dtype)
            except EngineFailure:  # texts are read without it as well
                chain = None
            self._may_be_ahead = chain is not None
            self._ahead = chain and ReadAhead(chain, self._pool, self._one)
        return self._ahead

    def _one(self, row: Tensor, ask: TextRows, position: int) -> tuple[Tensor, Held]:
        """See read_ahead.Evaluate."""
        out, new_kv = self._experts.und_held(self._call(row, ask, np.array([position])))
        return new_kv, self._graphs(contract.LM_HEAD, held=("logits",), und_out=out)[0]

    def _forget(self) -> None:
        if self._ahead is not None:
            self._ahead.forget()

    def together(self, asks: Iterable[TextRows]) -> Answers:
        """See asks.Evaluator.

        A call for several that fails, or whose rows are not finite, is made once more for each alone: so an error
        meets the one whose it is. (A number that is not finite reaches the others' rows through masked places, too.)
        Those that choose other adapters than the first are left for the next call.
        """
        asks = list(asks)
        asks = [ask for ask in asks if ask.adapter == asks[0].adapter]
        if len(asks) > 1:
            self._forget()
        found = self._merged(list(_pieces(asks))) if len(asks) > 1 else None
        return {ask: self._attempted(ask) for ask in asks} if found is None else found

    def _attempted(self, ask: TextRows) -> Behind | Exception | None:
        try:
            return self.alone(ask)
        except Exception as error:
            return error

    def _merged(self, pieces: list[Piece]) -> Answers | None:
        """None: nothing was done, each is to be evaluated alone."""
        lengths = [piece.ask.sequence.length for piece in pieces]
        try:
            slots = [self._pool.take(piece.ask.sequence, piece.count) for piece in pieces]
            out, new_kv = self._called(pieces, lengths)
            if not np.isfinite(out).all():
                raise _NotFinite
            self._pool.write(np.concatenate(slots), new_kv)
            return self._answers(pieces, out)
        except BaseException as error:
            for piece, length in zip(pieces, lengths, strict=True):
                self._pool.truncate(piece.ask.sequence, length)
            if not isinstance(error, Exception):
                raise
            return None

    def _called(self, pieces: list[Piece], lengths: list[int]) -> tuple[np.ndarray, Tensor]:
        """One call of the understanding expert for all pieces -> (rows, new_kv). lengths: of their sequences before."""
        rows = self._embeddings.rows([token for piece in pieces for token in piece.ids])
        rope = self._experts.rope.at(np.concatenate([piece.positions for piece in pieces]))
        pasts = [self._pool.slots(p.ask.sequence)[:length] for p, length in zip(pieces, lengths, strict=True)]
        slots, mask = block_mask(pasts, [piece.count for piece in pieces], self._pool.table.total_tokens)
        return self._experts.und(TextCall(rows, rope, self._pool, slots, mask, pieces[0].ask.adapter))

    def _answers(self, pieces: list[Piece], out: np.ndarray) -> Answers:
        """The answers of those that are complete now; the others get further. out: (all rows, hidden)."""
        wanted = np.repeat([piece.ask.logits for piece in pieces], [piece.count for piece in pieces])
        likeliest = all(piece.ask.likeliest for piece in pieces if piece.ask.logits)
        behind, first = self._behind(out[wanted], likeliest), 0
        found: Answers = {}
        for piece in pieces:
            piece.ask.done += piece.count
            piece.ask.merged = True
            if piece.ask.logits:
                found[piece.ask] = behind[first : first + piece.count]
                first += piece.count
            elif piece.ask.done == len(piece.ask.ids):
                found[piece.ask] = None
        return found

    def _behind(self, out: Tensor, likeliest: bool) -> Behind:
        """What the head says of rows (n, hidden)."""
        if not isinstance(out, np.ndarray):  # on a device; few rows go into the head without coming here
            if out.shape[0] <= self._head_rows:
                return self._head(out, likeliest)
            out = out.numpy()
        if not len(out):
            return out
        return _joined(
            [self._head(out[at : at + self._head_rows], likeliest) for at in range(0, len(out), self._head_rows)]
        )

    def _head(self, rows: Tensor, likeliest: bool) -> Behind:
        """Of at most _head_rows rows."""
        if not likeliest:
            return self._graphs(contract.LM_HEAD, und_out=rows)[0]
        logits = self._graphs(contract.LM_HEAD, held=("logits",), und_out=rows)[0]
        if isinstance(logits, np.ndarray):
            return logits
        with named_failures():
            return self._largest(logits)


def _joined(parts: list[Behind]) -> Behind:
    if len(parts) == 1:
        return parts[0]
    places = [part for part in parts if isinstance(part, Places)]
    if not places:
        return np.concatenate(parts)  # type: ignore[arg-type]
    return Places(np.concatenate([p.columns for p in places]), np.concatenate([p.sums for p in places]))


class _NotFinite(Exception):
    """Rows of a call for several have NaN or infinity in them."""


def _pieces(asks: Iterable[TextRows]) -> Iterator[Piece]:
    """What goes into one call: all tokens whose logits are wanted, and up to PIECE of the texts that are read."""
    room = PIECE
    for ask in asks:
        count = len(ask.ids) - ask.done
        if not ask.logits:
            count = min(count, room)
            room -= count
        if count:
            yield Piece(ask, count)

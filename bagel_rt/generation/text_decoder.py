"""Text decoding with the official code's loop, stop rule and length rule (Bagel.generate_text there)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

import numpy as np

from bagel_engines import EngineInfo, Places
from bagel_rt.asks import Behind, Evaluator, TextRows
from bagel_rt.events import Event, Turn
from bagel_rt.inputs.tokenizer import TextCodec
from bagel_rt.model.context_tree import Context, Lease
from bagel_rt.model.finite import check_finite
from bagel_rt.options.text_options import TextOptions
from bagel_rt.sampling.prompt_lookup import PromptLookup
from bagel_rt.sampling.token_choice import drawn, likeliest
from bagel_rt.sampling.torch_noise import TorchNoise


def next_token(logits: np.ndarray, options: TextOptions, noise: TorchNoise) -> int:
    """The next token from logits (vocab,), as the options say."""
    if not options.do_sample:
        return likeliest(logits)
    return drawn(logits, noise, options.text_temperature, options.top_k, options.top_p)


class TextDecoder:
    def __init__(self, evaluator: Evaluator, engine: EngineInfo, codec: TextCodec, logits: int):
        """engine: for messages; logits: how many there are of a token."""
        self._evaluator, self._engine = evaluator, engine
        self._im_start, self._im_end, self._logits = codec.im_start, codec.im_end, logits

    def write(
        self,
        contexts: Lease,
        context: Context,
        options: TextOptions,
        noise: TorchNoise,
        event: Callable[[int], Event],
        read: Iterable[int] = (),
        follow: list[int] | None = None,
        ended: Callable[[], bool] = lambda: False,
    ) -> Turn[None]:
        """Yield `event` of the official returned ids one by one: im_start, then tokens up to, and without, im_end, or
        until `ended()`.

        At most options.max_tokens ids in all. The official code evaluates one more token and drops it; that is not
        computed here, but the random numbers it takes are passed over: what is drawn next depends on them.
        read: the context's text ids, in which options.prompt_lookup looks for guesses.
        follow: takes the one token that is decoded behind im_end, which some fine-tunes are trained to put there.
        """
        lookup = PromptLookup((*read, self._im_start), options.prompt_lookup)
        token, scratch, count, greedy = self._im_start, contexts.branch(context), 1, not options.do_sample
        yield event(token)
        while count < options.max_tokens:
            guess = lookup.guess(min(options.max_tokens - count, contexts.room(scratch)) - 1)
            rows = yield from self._evaluated(contexts, scratch, (token, *guess), greedy)
            chosen = self._chosen(rows, guess, count, options, noise)
            contexts.drop(scratch, len(rows) - len(chosen))
            lookup.judge(guess, chosen)
            for token in chosen:
                if token == self._im_end:
                    if follow is not None:
                        row = yield from self._evaluated(contexts, scratch, (token,), greedy)
                        follow += self._chosen(row, (), count + 1, options, noise)
                    return
                yield event(token)
                if ended():
                    return
                count += 1
        if options.do_sample:
            noise.skip_exponential(self._logits)

    def _evaluated(
        self, contexts: Lease, scratch: Context, ids: tuple[int, ...], likeliest: bool
    ) -> Generator[TextRows, Behind, Behind]:
        """Ask for tokens to be added to the context; returns what is behind each. likeliest: as in TextRows."""
        contexts.check_position(scratch.position)
        position, adapter = scratch.position, scratch.adapter
        behind = yield TextRows(
            self._evaluator, ids, scratch.sequence, position, True, adapter=adapter, likeliest=likeliest
        )
        scratch.position += len(ids)
        return behind

    def _chosen(
        self, rows: Behind, guess: Sequence[int], count: int, options: TextOptions, noise: TorchNoise
    ) -> list[int]:
        """The tokens that are behind 1 + len(guess) rows, up to the first that is not the guessed one.

        A guess is compared with the very token that is chosen, so that a sampled text takes the same random numbers as
        without guesses. count: tokens written before.
        """
        found: list[int] = []
        for row in range(len(rows)):
            numbers = rows.sums[row : row + 1] if isinstance(rows, Places) else rows[row]
            if row and not np.isfinite(numbers).all():
                break  # it is computed again alone: the error comes behind the tokens before it
            check_finite(numbers, f"token {count + row} of the text, the logits", self._engine)
            found.append(int(rows.columns[row]) if isinstance(rows, Places) else next_token(numbers, options, noise))
            if found[-1] == self._im_end or found[-1:] != list(guess[row : row + 1]):
                break
        return found

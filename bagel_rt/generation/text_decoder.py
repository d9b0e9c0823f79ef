"""Text decoding with the official code's loop, stop rule and length rule (Bagel.generate_text there)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bagel_rt.artefact import contract
from bagel_rt.inputs.tokenizer import TextCodec
from bagel_rt.model.context_tree import Context, Lease
from bagel_rt.model.finite import check_finite
from bagel_rt.model.graphs import Graphs
from bagel_rt.model.step_graphs import Experts
from bagel_rt.model.token_embeddings import TokenEmbeddings
from bagel_rt.options.text_options import TextOptions
from bagel_rt.sampling.token_choice import drawn, likeliest
from bagel_rt.sampling.torch_noise import TorchNoise


def next_token(logits: np.ndarray, options: TextOptions, noise: TorchNoise) -> int:
    """The next token from logits (vocab,), as the options say."""
    if not options.do_sample:
        return likeliest(logits)
    return drawn(logits, noise, options.text_temperature, options.top_k, options.top_p)


class TextDecoder:
    def __init__(self, graphs: Graphs, experts: Experts, embeddings: TokenEmbeddings, codec: TextCodec, logits: int):
        """logits: how many there are of a token."""
        self._graphs, self._experts, self._embeddings = graphs, experts, embeddings
        self._im_start, self._im_end, self._logits = codec.im_start, codec.im_end, logits

    def write(self, contexts: Lease, context: Context, options: TextOptions, noise: TorchNoise) -> Iterator[int]:
        """Yield the official returned ids one by one: im_start, then tokens up to, and without, im_end.

        At most options.max_tokens ids in all. The official code evaluates one more token and drops it; that is not
        computed here, but the random numbers it takes are passed over: what is drawn next depends on them.
        """
        token, scratch = self._im_start, contexts.branch(context)
        for count in range(1, options.max_tokens + 1):
            yield token
            if count == options.max_tokens:
                if options.do_sample:
                    noise.skip_exponential(self._logits)
                return
            logits = self._next_logits(contexts, scratch, token)
            check_finite(logits, f"token {count} of the text, the logits", self._graphs.engine.info)
            token = next_token(logits, options, noise)
            if token == self._im_end:
                return

    def _next_logits(self, contexts: Lease, scratch: Context, token: int) -> np.ndarray:
        contexts.check_position(scratch.position)
        rope = self._experts.rope.at(np.array([scratch.position]))
        mask = np.ones((1, scratch.length + 1), bool)
        rows = self._embeddings.rows((token,))
        out, new_kv = self._experts.und(rows, rope, contexts.pool, scratch.sequence, mask)
        contexts.pool.append(scratch.sequence, new_kv)
        scratch.position += 1
        (logits,) = self._graphs(contract.LM_HEAD, und_out=out)
        return logits[0]

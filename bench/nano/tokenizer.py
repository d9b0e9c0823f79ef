"""A byte-level BPE tokenizer with Qwen2's rules and BAGEL's special tokens, trained on what the world can say."""

from __future__ import annotations

import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from bagel_export.checkpoint.synthetic import SPLIT
from bagel_rt.artefact.manifest import SPECIAL_TOKENS
from bench.nano.shares import PLAIN, Shares
from bench.nano.tasks import TASKS

CORPUS = 30_000


def train_tokenizer(vocabulary: int, seed: int, shares: Shares = PLAIN, texts: int = CORPUS) -> Tokenizer:
    """At most `vocabulary` ids, special tokens last, from so many samples' texts."""
    rng = random.Random(seed)
    names = list(TASKS)
    said = [p.text for i in range(texts) for p in TASKS[names[i % len(names)]](rng, shares) if p.text]
    special = [AddedToken(t, normalized=False, special=True) for t in ("<|endoftext|>", *SPECIAL_TOKENS.values())]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(said, trainer)
    tokenizer.add_special_tokens(special)
    return tokenizer

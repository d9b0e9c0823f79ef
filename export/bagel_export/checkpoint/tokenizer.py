"""tokenizer.json for the artefact: the checkpoint's own, or made from vocab.json and merges.txt by transformers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tokenizers import Tokenizer

from bagel_rt.artefact.manifest import SPECIAL_TOKENS
from bagel_rt.errors import CheckpointError
from bagel_rt.files.text_files import has_mark, read_text

TOKENIZER_FILE = "tokenizer.json"
SLOW_FILES = (  # those that transformers reads where there is no tokenizer.json
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
)


def load_tokenizer(folder: Path, vocab_size: int) -> tuple[Tokenizer, dict[str, int]]:
    """The checkpoint's tokenizer and the ids of BAGEL's four special tokens.

    A token the tokenizer lacks is added behind its last id, as the official code does. Raises CheckpointError for an
    unreadable tokenizer, or ids the embedding table does not hold.
    """
    path = folder / TOKENIZER_FILE
    try:
        tokenizer = Tokenizer.from_str(read_text(path, CheckpointError)) if path.is_file() else _converted(folder)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{path}: not a readable tokenizer: {error}") from None
    missing = [token for token in SPECIAL_TOKENS.values() if tokenizer.token_to_id(token) is None]
    if missing:
        tokenizer.add_special_tokens(missing)
    ids: dict[str, int] = {}
    for name, token in SPECIAL_TOKENS.items():
        found = tokenizer.token_to_id(token)
        if found is None or found >= vocab_size:
            raise CheckpointError(
                f"{path}: token '{token}' has id {found}, the checkpoint's embedding table has {vocab_size} rows"
            )
        ids[name] = found
    token, last = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if last >= vocab_size:
        raise CheckpointError(
            f"{path}: token {token!r} has id {last}, the checkpoint's embedding table has {vocab_size} rows: the"
            " tokenizer is another model's"
        )
    return tokenizer, ids


def _converted(folder: Path) -> Tokenizer:
    """The slow one's files as a fast tokenizer; from a copy where one begins with a byte order mark."""
    files = [path for name in SLOW_FILES if (path := folder / name).is_file()]
    if not any(has_mark(path) for path in files):
        return _convert(folder)
    with tempfile.TemporaryDirectory() as unmarked:
        for path in files:
            (Path(unmarked) / path.name).write_text(read_text(path, CheckpointError), encoding="utf-8", newline="\n")
        return _convert(Path(unmarked))


def _convert(folder: Path) -> Tokenizer:
    """A fast tokenizer from the slow one's files, special tokens from tokenizer_config.json included."""
    from transformers import AutoTokenizer, Qwen2Tokenizer

    if (folder / "tokenizer_config.json").is_file():
        fast = AutoTokenizer.from_pretrained(str(folder), use_fast=True)
    else:
        fast = Qwen2Tokenizer.from_pretrained(str(folder))
    backend = getattr(fast, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(f"{folder}: transformers found no fast tokenizer; add a tokenizer.json")
    return Tokenizer.from_str(backend.to_str())

"""The tokenizer's name and the two methods the inferencer calls."""

from pathlib import Path

from tokenizers import Tokenizer


class Qwen2Tokenizer:
    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, path: str) -> "Qwen2Tokenizer":
        return cls(Tokenizer.from_file(str(Path(path) / "tokenizer.json")))

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def id_of(self, token: str) -> int:
        return self._tokenizer.token_to_id(token)

"""Text to token ids and back, by the `tokenizers` library and the artefact's tokenizer.json."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bagel_rt.artefact.manifest import SPECIAL_TOKENS, Manifest
from bagel_rt.errors import ArtefactError, BagelError, InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


HALF = re.compile("[\ud800-\udfff]")  # surrogates: no tokenizer has any


class TextCodec:
    def __init__(self, manifest: Manifest):
        path: Path = manifest.folder / manifest.tokenizer_file
        try:
            self._open: Tokenizer | None = _tokenizer(path)
        except Exception as error:  # the library raises bare Exception
            raise ArtefactError(f"{path}: not a tokenizer file ({error}); export the model again") from None
        self._vocab_size = manifest.model.vocab_size
        self.im_start, self.im_end, self.vision_start, self.vision_end = (
            manifest.special_ids[name] for name in ("im_start", "im_end", "vision_start", "vision_end")
        )

    def close(self) -> None:
        """Give the tokenizer's memory back."""
        self._open = None

    @property
    def _tokenizer(self) -> Tokenizer:
        if self._open is None:
            raise BagelError("this model was closed; load it again")
        return self._open

    def segment(self, text: str) -> tuple[int, ...]:
        """A text segment: im_start, the text's ids (special tokens in it are parsed), im_end."""
        if (half := HALF.search(text)) is not None:
            raise InputError(f"the text holds {half[0]!a}, half of a character: was it read with the wrong encoding?")
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if ids and max(ids) >= self._vocab_size:
            raise InputError(f"the text gives token id {max(ids)}, the model's table has {self._vocab_size} rows")
        return (self.im_start, *ids, self.im_end)

    def token_id(self, name: str) -> int | None:
        """The id of a token by its name, special or not; None where there is none."""
        return self._tokenizer.token_to_id(name)

    def decode(self, ids: Sequence[int]) -> str:
        """Everything ids stand for, special tokens written out; bytes that are no character become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def text(self, ids: Sequence[int]) -> str:
        """The official reading of generated ids: what stands after the first im_start, up to im_end."""
        before_end = self.decode(ids).split(SPECIAL_TOKENS["im_end"])[0]
        parts = before_end.split(SPECIAL_TOKENS["im_start"])
        return parts[1] if len(parts) > 1 else ""


def _tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(path))
    found.no_truncation()
    found.no_padding()
    return found

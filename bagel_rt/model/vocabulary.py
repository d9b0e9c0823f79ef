"""What texts are read with, opened once for a model and everything that reads texts for it."""

from __future__ import annotations

from dataclasses import dataclass

from bagel_rt.artefact.manifest import Manifest
from bagel_rt.inputs.tokenizer import TextCodec
from bagel_rt.model.token_embeddings import TokenEmbeddings


@dataclass(frozen=True)
class Vocabulary:
    codec: TextCodec
    embeddings: TokenEmbeddings

    @staticmethod
    def of(manifest: Manifest) -> Vocabulary:
        """Opened from an artefact's files, which may be replaced or removed afterwards."""
        return Vocabulary(TextCodec(manifest), TokenEmbeddings(manifest))

    def close(self) -> None:
        self.codec.close()
        self.embeddings.close()

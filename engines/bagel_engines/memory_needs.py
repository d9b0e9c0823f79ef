"""What engines take from main memory beside what they are given: measured, in bytes, and multiplied by sizes.

Only what cannot be given back to the disk is counted (anonymous and shared memory); mapped weights are not.
bench/memory.py compares what comes of it with what is really taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Stack:
    """Working memory of a stack of transformer layers, in bytes.

    inner, hidden: for each row and each number of the layers' inner and outer width; hidden_layer: the same for every
    layer again, where a layer's memory is not wholly used by the next; seen_layer: for every layer, each row that is
    attended to and each number of its keys and values; pairs: for a row and a row it sees; scores: for those and a
    head, of which no more than `most_scores` are kept at once.
    """

    inner: float
    hidden: float = 0.0
    hidden_layer: float = 0.0
    seen_layer: float = 0.0
    pairs: float = 0.0
    scores: float = 0.0
    most_scores: float = math.inf

    def size(self, rows: int, seen: int, inner: int, hidden: int, layers: int, heads: int, cached: int = 0) -> int:
        """cached: numbers of a row's keys and values in a layer."""
        each = self.inner * inner + (self.hidden + layers * self.hidden_layer) * hidden + self.pairs * seen
        scores = min(float(heads * rows * seen), self.most_scores)
        return int(rows * each + seen * layers * self.seen_layer * cached + self.scores * scores)


@dataclass(frozen=True)
class Needs:
    """program: the process with the engine in it; graph: a graph that is loaded, without its weights. kept: bytes of
    memory for a byte of stored weights, by form (of the manifest's weight_forms; "conv8" for the VAE's int8); other
    forms count as "float". number: of a number in the page pool. decoder_pixel and encoder_pixel: for a pixel and a
    channel of the VAE's first width; decoder_channels: for that width squared. lazy: weights are packed when they are
    first multiplied, so that those of an expert without rows stay in their file, and each is there twice meanwhile.
    """

    program: int
    graph: int
    kept: Mapping[str, float]
    step: Stack
    vit: Stack
    decoder_pixel: float
    encoder_pixel: float
    decoder_channels: float = 8192.0
    number: int = 4
    lazy: bool = False

    def weights(self, form: str, stored: int) -> int:
        return int(stored * self.kept.get(form, self.kept["float"]))

    def decoder(self, pixels: int, channels: int) -> int:
        """Of the VAE's whole decoder, of that first width."""
        return int(self.decoder_pixel * channels * pixels + self.decoder_channels * channels**2)


def openvino_needs(arithmetic: str) -> Needs:
    """Steps were measured over 2 to 28 layers of 1024 and 3584, 256 to 4096 rows and 50 to 8000 tokens of context."""
    number = 4 if arithmetic == "float32" else 2
    exact = Stack(26.3, hidden_layer=8.9, seen_layer=4.0, pairs=6.0)
    narrow = Stack(16.0, hidden_layer=2.4, seen_layer=2.2, pairs=2.5)
    return Needs(
        program=85 * MIB,
        graph=12 * MIB,
        kept={"float": number / 4, "int8": 1.0, "int4": 1.0, "w8a8": 1.0, "fp8": 1.0, "conv8": float(number)},
        step=exact if number == 4 else narrow,
        vit=Stack(2.0 * number, 9.0 * number),
        decoder_pixel=8.3 * number,
        encoder_pixel=5.6 * number,
        number=number,
        lazy=True,
    )


def onnxruntime_needs(plain: bool, mapped: bool, most_scores: int | None = None) -> Needs:
    """plain: quantised weights are made float32 on loading; mapped: all of them lie in a file; most_scores: that
    attention keeps at once."""
    most = math.inf if most_scores is None else float(most_scores)
    many = 0.0 if mapped else 1.0
    spread = many * (4.0 if plain else 1.0)
    return Needs(
        program=70 * MIB,  # 20 of it the onnx package
        graph=5 * MIB,
        kept={"float": many, "int8": spread, "int4": 2 * spread, "w8a8": spread, "fp8": spread, "conv8": 4 * many},
        step=Stack(8.0, 40.0, scores=8.0, most_scores=most),
        vit=Stack(8.0, 36.0, scores=4.0, most_scores=most),
        decoder_pixel=38.0,
        encoder_pixel=23.0,
    )

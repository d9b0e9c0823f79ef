"""How much main memory each engine takes, as bytes per row, pixel, weight and so on: measured factors times sizes.

Only memory that the system cannot give back to the disk is counted (anonymous and shared); mapped weight files are not.
How the factors are used: bagel_rt/estimate/memory.py. bench/memory.py compares the result with what is really taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Stack:
    """Factors for the working memory of a stack of transformer layers, in bytes.

    inner: per row and number of the MLP's width. hidden: per row and number of the hidden width. hidden_layer: the same
    once more for every layer, as an engine does not reuse all of a layer's memory for the next. seen_layer: per layer,
    row that is attended to, and number of its keys and values. pairs: per query and key. scores: per query, key and
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
        """Bytes for `rows` queries that attend to `seen` keys. cached: numbers of a row's keys and values in a
        layer."""
        each = self.inner * inner + (self.hidden + layers * self.hidden_layer) * hidden + self.pairs * seen
        scores = min(float(heads * rows * seen), self.most_scores)
        return int(rows * each + seen * layers * self.seen_layer * cached + self.scores * scores)


@dataclass(frozen=True)
class Needs:
    """All factors of one engine, in bytes.

    program: the process with the engine loaded. graph: a loaded graph without its weights. kept: memory per byte of
    stored weights, by form (of the manifest's weight_forms; "conv8" for the VAE's int8); other forms count as "float".
    step, vit: working memory of the decoder's layers and of the ViT. decoder_pixel, encoder_pixel: of the VAE, per
    pixel and channel of its first width; decoder_channels: per that width squared. number: per number in the page pool.
    lazy: the engine packs a weight when it is first multiplied. So the weights of an expert that gets no rows stay in
    their file, and while it packs a weight it has that weight twice.
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
        """Bytes that the VAE's decoder takes for a picture of so many pixels, decoded whole. channels: its first
        width."""
        return int(self.decoder_pixel * channels * pixels + self.decoder_channels * channels**2)


def openvino_needs(arithmetic: str) -> Needs:
    """OpenVINO 2026.4.1 on the CPU. Factors of a step were fitted to measurements of 2 to 28 layers of width 1024 and
    3584, with 256 to 4096 rows and 50 to 8000 tokens of context."""
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


def onnxruntime_needs(arithmetic: str, mapped: bool, most_scores: int | None = None, integers: bool = False) -> Needs:
    """ONNX Runtime 1.31.1 on the CPU. arithmetic: with "int8" quantised weights stay as they are, with "int8-rows" they
    have 8 bits, else they become float32 on loading. mapped: packed weights are mapped from a file. most_scores:
    attention scores kept at once (chunk_attention), None for all. integers: products of 8-bit rows and weights are
    computed in integers (integer_products)."""
    most = math.inf if most_scores is None else float(most_scores)
    many = 0.0 if mapped else 1.0
    int8, int4 = {"int8": (1.0, 1.0), "int8-rows": (1.0, 2.0)}.get(arithmetic, (4.0, 8.0))
    w8a8 = many * (1.0 if integers else 4.0)
    return Needs(
        program=70 * MIB,  # 20 of it the onnx package
        graph=5 * MIB,
        kept={
            "float": many,
            "int8": many * int8,
            "int4": many * int4,
            "w8a8": w8a8,
            "fp8": 4 * many,
            "conv8": 4 * many,
        },
        step=Stack(8.0, 40.0, scores=8.0, most_scores=most),
        vit=Stack(8.0, 36.0, scores=4.0, most_scores=most),
        decoder_pixel=38.0,
        encoder_pixel=23.0,
    )

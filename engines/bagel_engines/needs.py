"""What engines take from main memory beside what they are given: measured, in bytes, and multiplied by sizes.

Only what cannot be given back to the disk is counted (anonymous and shared memory); mapped weights are not.
bench/memory.py compares what comes of it with what is really taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MIB = 2**20


@dataclass(frozen=True)
class Stack:
    """Working memory of a stack of transformer layers: bytes for each row, and for each pair of rows and heads.

    inner, hidden: for a number of the layers' inner and outer width; kv: for a number of the keys and values of all
    layers, of new rows; seen: of all rows attended to; scores: for a row, a row it sees, and a head.
    """

    inner: float
    hidden: float
    kv: float = 0.0
    seen: float = 0.0
    scores: float = 0.0


@dataclass(frozen=True)
class Needs:
    """program: the process with the engine in it. kept: bytes of memory for a byte of stored weights, by form (of the
    manifest's weight_forms); other forms count as "float". number: of a number in the page pool. decoder_pixel and
    encoder_pixel: for a pixel and a channel of the VAE's first width.
    """

    program: int
    kept: Mapping[str, float] = field(default_factory=dict)
    number: int = 4
    step: Stack = Stack(0, 0)
    vit: Stack = Stack(0, 0)
    decoder_pixel: float = 0.0
    encoder_pixel: float = 0.0

    def weights(self, form: str, stored: int) -> int:
        return int(stored * self.kept.get(form, self.kept["float"]))


def openvino_needs(arithmetic: str) -> Needs:
    wide = arithmetic == "float32"
    number = 4 if wide else 2
    return Needs(
        program=90 * MIB,
        kept={"float": 1.0 if wide else 0.5, "int8": 1.0, "int4": 1.0, "w8a8": 1.0, "fp8": 1.0},
        number=number,
        step=Stack(inner=8.0, hidden=14.0 * number, kv=4.0, seen=4.0),
        vit=Stack(inner=2.0 * number, hidden=9.0 * number),
        decoder_pixel=8.3 * number,
        encoder_pixel=5.6 * number,
    )


def onnxruntime_needs(plain: bool, mapped: bool) -> Needs:
    """plain: quantised weights are made float32 on loading; mapped: all lie in a file."""
    many = 0.0 if mapped else 1.0
    spread = many * 4.0 if plain else many
    return Needs(
        program=60 * MIB,
        kept={"float": many, "int8": spread, "int4": 2 * spread, "w8a8": spread, "fp8": spread},
        step=Stack(inner=8.0, hidden=40.0, kv=4.0, scores=4.0),
        vit=Stack(inner=8.0, hidden=36.0, scores=4.0),
        decoder_pixel=40.0,
        encoder_pixel=26.0,
    )

"""What OpenVINO's CPU plugin really computes in on this machine: it takes every hint, and ignores some without a word.

Seen with 2026.4.1: on a CPU with AVX2 alone, bfloat16 and the rounding of rows to 8 bits change nothing; on two AMX
cores that rounding changes nothing beside bfloat16; on a CPU with AVX-512 and without bfloat16 instructions, bfloat16
is emulated and takes four to six times as long as float32. So a small product is computed both ways and compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from bagel_engines.protocol import EngineFailure

HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
NATIVE = {"bfloat16": "BF16", "float16": "FP16"}  # as OPTIMIZATION_CAPABILITIES names them
ROUNDED = "int8"  # rows that 8-bit and 4-bit weights multiply are rounded to 8 bits, as they come
GROUP = 64  # numbers of a row that share a step then: of a layer of the 7B that spoils 1.9 %, groups of 128 over 2 %
ALLOWED = (*HINTS, ROUNDED)


@dataclass(frozen=True)
class Arithmetic:
    """name: what the heavy products run in. beside: the float format of the rest, a key of HINTS. group: numbers of a
    row that share a step when rows are rounded, 0 for none. remark: what it costs here."""

    name: str
    beside: str
    group: int = 0
    remark: str = ""

    @property
    def config(self) -> dict[str, object]:
        """The plugin's options; neither default is right: they follow the CPU."""
        return {"INFERENCE_PRECISION_HINT": HINTS[self.beside], "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(self.group)}


def arithmetic_here(wanted: str, by_name: bool) -> Arithmetic:
    """wanted: one of ALLOWED. by_name: the caller asked for it; else the artefact states it, and float32 stands in for
    a 16-bit format that this CPU has no instructions for.

    Raises EngineFailure for an arithmetic that was asked for and would change nothing here.
    """
    if wanted not in ALLOWED:
        raise EngineFailure(f"openvino arithmetic {wanted!r} is unknown; allowed: {', '.join(ALLOWED)}")
    if wanted == ROUNDED:
        beside = "bfloat16" if native("bfloat16") else "float32"
        return Arithmetic(ROUNDED, beside, GROUP) if rounds_rows(beside) else _without_effect(ROUNDED)
    if wanted == "float32" or native(wanted):
        return Arithmetic(wanted, wanted)
    if not by_name:
        return Arithmetic("float32", "float32")
    if not changes_numbers(wanted):
        return _without_effect(wanted)
    return Arithmetic(wanted, wanted, remark=f"{wanted} emulated: this CPU has no such instructions, float32 is faster")


def _without_effect(wanted: str) -> Arithmetic:
    can = ["float32", *(name for name in NATIVE if native(name))]
    other = ", or use --backend onnxruntime --arithmetic int8, or an artefact of precision w8a8"
    version = _openvino().__version__.split("-")[0]
    raise EngineFailure(
        f"openvino {version} takes arithmetic {wanted!r} on this CPU and computes as without it; leave --arithmetic out"
        f" (it can compute in {', '.join(can)})" + (other if wanted == ROUNDED else "")
    )


@cache
def native(name: str) -> bool:
    """Whether the CPU has instructions for a 16-bit format, as the plugin says."""
    return NATIVE[name] in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def changes_numbers(name: str) -> bool:
    """Whether a product comes out differently with the hint for a 16-bit format."""
    return not np.array_equal(_product(Arithmetic(name, name)), _product(Arithmetic("float32", "float32")))


@cache
def rounds_rows(beside: str) -> bool:
    """Whether a product with 8-bit weights comes out differently when rows are to be rounded."""
    plain = Arithmetic(beside, beside)
    return not np.array_equal(_product(Arithmetic(ROUNDED, beside, GROUP)), _product(plain))


def _product(arithmetic: Arithmetic) -> np.ndarray:
    """64 rows of 256 numbers times 8-bit weights with a scale for each of 256 outputs."""
    random = np.random.default_rng(0)
    openvino = _openvino()
    from openvino import opset13 as ops

    rows = ops.parameter([-1, 256], np.float32)
    stored = ops.convert(ops.constant(random.integers(-127, 128, (256, 256)).astype(np.int8)), "f32")
    weights = ops.multiply(stored, ops.constant(random.random((256, 1)).astype(np.float32) / 127))
    product = ops.matmul(rows, weights, False, True)
    model = openvino.Model([product], [rows])  # pyright: ignore[reportGeneralTypeIssues]
    compiled = openvino.Core().compile_model(model, "CPU", arithmetic.config)
    return np.array(compiled([random.standard_normal((64, 256)).astype(np.float32)])[0])


def _openvino():
    import openvino

    return openvino

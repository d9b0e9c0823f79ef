"""A model's numbers are looked at where they reach main memory: NaN or infinity would become a black picture."""

from __future__ import annotations

import numpy as np

from bagel_engines import EngineInfo
from bagel_rt.errors import NotFiniteError


def check_finite(values: np.ndarray, what: str, engine: EngineInfo) -> None:
    """Raise NotFiniteError for numbers a graph computed, saying what they are and what usually causes it."""
    if not np.isfinite(values).all():
        raise NotFiniteError(
            f"{what}: not finite (NaN or infinity), as {engine} computed it. {_usual_cause(engine.arithmetic)}"
        )


def _usual_cause(arithmetic: str) -> str:
    if "float16" in arithmetic.replace("bfloat16", ""):
        return (
            "Usually float16 overflowed, which ends at 65504: export again with --precision bf16 or fp32 (or, for"
            " quantised weights, --arithmetic bf16)"
        )
    return "Usually weights are damaged, or an option's value is far too large: run bagel-rt verify, change the option"
